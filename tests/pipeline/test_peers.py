from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import NotEnoughFramesError
from pipeline.peers import Field, Method, Peer, even_frames, installed, peers
from pipeline.predictor import Context, Source
from pipeline.specs import BandSpec

RAIN = BandSpec(name="rain", dtype="uint16", units="mm", period=timedelta(minutes=5))
ECHO = BandSpec(name="echo", dtype="uint8", units="dBZ", floor=0.0)
LIGHT = BandSpec(name="light", dtype="uint16", units="1")


def seen(values: NDArray[np.floating], ages: list[float]) -> Context:
    frames = values.astype(np.float32)[None, ..., None]
    return Context(frames, np.isfinite(frames), np.zeros((1, len(ages)), np.int64), np.array([ages], np.float32))


def drifting(frames: int, speed: int = 2, side: int = 96) -> NDArray[np.float32]:
    """Showers of a few mm/h that move to the right."""
    random = np.random.default_rng(0)
    coarse = random.normal(size=(side // 8, side // 8 + 4))
    field = np.kron(coarse, np.ones((8, 8)))
    rain = np.maximum(field, 0) / 12 * 4
    return np.stack([rain[:, 24 - speed * at : 24 - speed * at + side - 24] for at in range(frames)]).astype(np.float32)


def test_rain_goes_over_in_decibels_of_an_hourly_rate_and_comes_back() -> None:
    field = Field.of(RAIN)
    given = field.apply(np.array([1 / 12, 10 / 12, 0.0, np.nan]))
    np.testing.assert_allclose(given, [0, 10, -15, np.nan])
    np.testing.assert_allclose(field.invert(given), [1 / 12, 10 / 12, 0, np.nan], rtol=1e-6)


@pytest.mark.parametrize("band", [ECHO, LIGHT])
def test_other_fields_go_over_as_they_are(band: BandSpec) -> None:
    values = np.array([0.0, 3.5, 40.0, np.nan])
    field = Field.of(band)
    np.testing.assert_array_equal(field.apply(values), values)
    np.testing.assert_array_equal(field.invert(values), values.astype(np.float32))


def test_only_frames_at_one_distance_are_taken() -> None:
    frames = np.arange(5.0)[:, None, None] * np.ones((5, 2, 2))
    taken, gap = even_frames(frames, np.array([7.0, 4.0, 2.0, 0.0, 9.0]))
    assert (taken[:, 0, 0].tolist(), gap) == ([1.0, 2.0, 3.0], 2.0)


def test_a_frame_without_values_is_as_one_that_did_not_come() -> None:
    frames = np.ones((4, 2, 2))
    frames[2] = np.nan
    taken, gap = even_frames(frames, np.array([3.0, 2.0, 1.0, 0.0]))
    assert (len(taken), gap) == (2, 2.0)


def test_a_band_without_a_dry_value_has_no_s_prog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.peers.installed", lambda: True)
    assert set(peers((LIGHT,), (0,))) == {Method.LUCAS_KANADE}
    assert set(peers((ECHO, RAIN), (0, 1))) == {Method.LUCAS_KANADE, Method.S_PROG}
    assert set(peers((ECHO, LIGHT), (0, 1))) == {Method.LUCAS_KANADE}


def test_without_pysteps_there_are_no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.peers.EXTRA", "pysteps_that_nobody_has")
    assert not installed()
    assert peers((ECHO,), (0,)) == {}


def test_one_frame_is_not_enough_and_needs_no_pysteps_to_say_so() -> None:
    peer = Peer(Method.LUCAS_KANADE, (Field.of(ECHO),), (0,))
    with pytest.raises(NotEnoughFramesError, match="evenly spaced"):
        peer.predict(seen(np.ones((1, 4, 4)), [0.0]), 2)


@pytest.mark.parametrize("gap", [1, 2])
def test_lucas_kanade_finds_where_showers_go_also_when_every_other_frame_is_missing(gap: int) -> None:
    pytest.importorskip("pysteps")
    frames = drifting(8)
    context = seen(frames[: 3 * gap : gap], [2.0 * gap, 1.0 * gap, 0.0])
    said = Peer(Method.LUCAS_KANADE, (Field.of(RAIN),), (0,)).predict(context, 1)
    truth, newest = frames[2 * gap + 1], frames[2 * gap]
    values = said.values[0, 0, 0, ..., 0]
    known = np.isfinite(values)
    assert known.mean() > 0.9
    assert np.abs(values - truth)[known].mean() < 0.5 * np.abs(newest - truth)[known].mean()
    assert set(np.unique(said.source)) <= {Source.NONE, Source.EXTRAPOLATION}


def test_showers_have_gone_on_since_a_newest_frame_that_is_not_of_now() -> None:
    pytest.importorskip("pysteps")
    frames, late = drifting(8), [4.0, 3.0, 2.0]
    for method in (Method.LUCAS_KANADE, Method.S_PROG):
        said = Peer(method, (Field.of(RAIN),), (0,)).predict(seen(frames[:3], late), 2)
        values, truth, too_early = said.values[0, 0, 0, ..., 0], frames[5], frames[3]
        known = np.isfinite(values)
        assert np.abs(values - truth)[known].mean() < 0.7 * np.abs(values - too_early)[known].mean()


@pytest.mark.parametrize("gap", [1, 2])
def test_s_prog_moves_showers_too_and_says_no_rain_less_than_none(gap: int) -> None:
    pytest.importorskip("pysteps")
    context = seen(drifting(3 * gap)[::gap], [2.0 * gap, 1.0 * gap, 0.0])
    said = Peer(Method.S_PROG, (Field.of(RAIN),), (0,)).predict(context, 4)
    assert said.values.shape == (1, 4, 1, 96, 72, 1)
    assert np.nanmin(said.values) >= 0
    truth, newest = drifting(3 * gap + 1)[2 * gap + 1], context.values[0, -1, ..., 0]
    first = said.values[0, 0, 0, ..., 0]
    known = np.isfinite(first)
    assert np.abs(first - truth)[known].mean() < np.abs(newest - truth)[known].mean()

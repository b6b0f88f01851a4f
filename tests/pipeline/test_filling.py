from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.catalog import latest, quality_path, read_run
from pipeline.config import Settings
from pipeline.cube import Cube
from pipeline.errors import NotEnoughFramesError
from pipeline.filling import CLIMATOLOGY
from pipeline.forecast import forecast, situate
from pipeline.passport import Verdict, verify
from pipeline.pieces import View
from pipeline.predictor import Context, Forecast, Source
from pipeline.raster import read_dn
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.sheets import UNKNOWN
from tests.pipeline.seers import Half, put

if TYPE_CHECKING:
    from tests.pipeline.conftest import Product

DAY = 288  # slots
SAMPLES = {"context_frames": 3, "max_age": 4, "horizon": 2}
PLAIN = {"firewall": {"stuck": "off", "level": "off", "zeros_are_values": True}}
HOLE, BLIND = (slice(0, 10), slice(0, 10)), (slice(30, 40), slice(40, 48))
REF = ModelRef("fake", "1", "network")


def field(value: float, *holes: tuple[slice, slice]) -> NDArray[np.uint16]:
    dn = np.full((1, 40, 48), round(10 * (value + 3)), np.uint16)
    for hole in (*holes, BLIND):
        dn[0][hole] = 65535
    return dn


def tuned(product: Product, **changed: Any) -> Settings:
    changed = {"samples": SAMPLES, "motion": {"method": "none"}} | changed
    return Settings(**product.settings.model_dump() | changed)


def cube_of(make_product: Callable[..., Product], slots: Collection[int], hole: Collection[int] = ()) -> Product:
    """Scenes at some slots, whose value is the slot's number; BLIND is never seen, HOLE not in those of ``hole``."""
    product = make_product(scenes=PLAIN)
    for slot in slots:
        product.scene(slot, field(slot % DAY, *([HOLE] if slot in hole else [])))
    product.ingest()
    return product


@dataclass(frozen=True)
class Lead:
    """What the files of a lead say."""

    values: NDArray[np.float32]
    sources: NDArray[np.uint16]
    ages: NDArray[np.uint16]

    @classmethod
    def of(cls, path: Path, minutes: int = 5) -> Lead:
        run = read_run(path)
        sources, ages = read_dn(quality_path(run.leads[minutes]))
        return cls(run.read(minutes)[0, ..., 0], sources, ages)

    def at(self, place: tuple[slice, slice] = (slice(15, 20), slice(0, 48))) -> tuple[set[int], set[int], set[float]]:
        """Sources, ages and values in one part of the grid."""
        layers = self.sources, self.ages, self.values.round(3)
        return tuple(set(layer[place].ravel().tolist()) for layer in layers)  # pyright: ignore[reportReturnType]


# --- inputs taken away ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenes", "age"),
    [
        pytest.param((6, 7, 8, 9, 10), 0, id="all there"),
        pytest.param((6, 7, 8, 9), 5, id="the newest missing"),
        pytest.param((6, 8), 10, id="two of the context missing"),
        pytest.param((6,), 20, id="all but one missing"),
    ],
)
def test_with_inputs_missing_the_rungs_stay_and_the_ages_say_it(
    make_product: Callable[..., Product], scenes: Sequence[int], age: int
) -> None:
    product = cube_of(make_product, (0, *scenes))
    run = forecast(tuned(product), Champion(Half(), REF), now=product.time(10))
    for minutes in (5, 10):
        lead = Lead.of(run, minutes)
        assert lead.at((slice(15, 20), slice(0, 24))) == ({Source.NETWORK}, {age}, {7})
        assert lead.at((slice(15, 20), slice(24, 48))) == ({Source.EXTRAPOLATION}, {age}, {max(scenes)})
        assert lead.sources[BLIND].max() == Source.NONE
        assert (lead.ages[BLIND] == UNKNOWN).all()
    assert read_run(run).model == REF
    assert read_run(run).init == product.time(10)


def test_with_nothing_within_the_maximum_age_a_run_is_the_climatology_and_says_why(
    make_product: Callable[..., Product],
) -> None:
    product = cube_of(make_product, (0, 1, 2, 3))
    path = forecast(tuned(product), Champion(Half(), REF), now=product.time(10))
    lead, run = Lead.of(path), read_run(path)
    assert lead.at() == ({Source.CLIMATOLOGY}, {35}, {1.5})
    assert lead.at(BLIND)[:2] == ({Source.NONE}, {UNKNOWN})
    assert (run.model, run.scenes, run.quantities) == (CLIMATOLOGY, (), ("mean",))
    told = json.loads((path / "run.json").read_text())["climatology"]
    assert told["reason"] == "no scene of the last 4 slots before 2024-06-01 05:50Z"
    assert [name.split("-")[0] for name in told["scenes"]] == [
        f"{product.time(slot):%Y%m%dT%H%MZ}" for slot in range(4)
    ]


def test_a_region_that_the_context_does_not_show_is_filled_and_the_others_are_not(
    make_product: Callable[..., Product],
) -> None:
    product = cube_of(make_product, range(8), hole=(5, 6, 7))
    path = forecast(tuned(product), None)
    lead, before = Lead.of(path), Lead.of(forecast(tuned(product, forecast={"climatology_frames": 0}), None))
    assert lead.at(HOLE) == ({Source.CLIMATOLOGY}, {15}, {2})  # the mean of 0 to 4, the newest is 15 minutes old
    assert before.at(HOLE)[:2] == ({Source.NONE}, {UNKNOWN})
    elsewhere = np.ones(lead.sources.shape, bool)
    elsewhere[HOLE] = False
    for ours, theirs in zip(
        (lead.values, lead.sources, lead.ages), (before.values, before.sources, before.ages), strict=True
    ):
        np.testing.assert_array_equal(ours[elsewhere], theirs[elsewhere])
    told = json.loads((path / "run.json").read_text())["climatology"]
    assert told["reason"] == "there are pixels that none of the 3 newest frames shows"
    assert len(told["scenes"]) == 5
    assert "climatology" not in json.loads(
        (forecast(tuned(product), None, init=product.time(4)) / "run.json").read_text()
    )


def test_every_quantity_takes_the_one_value(make_product: Callable[..., Product]) -> None:
    product = cube_of(make_product, range(8), hole=(5, 6, 7))

    @dataclass(frozen=True)
    class Seeing:
        """Three quantities where the newest frame has a value."""

        def predict(self, context: Context, horizon: int) -> Forecast:
            said = Half().predict(context, horizon)
            values, source = np.repeat(said.values, 3, axis=2), said.source.copy()
            unseen = ~context.validity[0, -1, ..., 0]
            values[..., unseen, :], source[..., unseen] = np.nan, Source.NONE
            return Forecast(values, source, said.age, ("mean", "q10", "q90"))

    run = read_run(forecast(tuned(product), Champion(Seeing(), REF)))
    np.testing.assert_allclose(run.read(5)[:, *HOLE, 0], 2, atol=0.01)
    assert (run.source(5)[HOLE] == Source.CLIMATOLOGY).all()


# --- which frames ---------------------------------------------------------------------------------


def test_frames_of_the_same_time_of_day_are_taken_and_no_others(make_product: Callable[..., Product]) -> None:
    days = [DAY * day for day in (0, 1)]
    product = cube_of(make_product, [day + slot for day in days for slot in (0, 11, 12, 50)])
    path = forecast(tuned(product), None, now=product.time(2 * DAY + 10))
    assert Lead.of(path).at() == ({Source.CLIMATOLOGY}, {(DAY - 2) * 5}, {12})  # the frames of the later of the leads
    assert Lead.of(path, 10).at() == Lead.of(path).at()


def test_leads_more_than_an_hour_apart_have_frames_of_their_own(make_product: Callable[..., Product]) -> None:
    product = cube_of(make_product, range(40))
    longer = tuned(product, samples=SAMPLES | {"horizon": 24})
    path = forecast(longer, None, now=product.time(DAY))
    middles = {5: 7, 60: 7, 65: 19, 120: 19}
    assert {minutes: Lead.of(path, minutes).at()[2] for minutes in middles} == {m: {v} for m, v in middles.items()}


def test_a_hindcast_s_climatology_is_of_what_was_available_then(make_product: Callable[..., Product]) -> None:
    product = make_product(scenes=PLAIN | {"available_tag": "AVAILABLE_AT"})
    for slot in range(4):
        came = product.time(20 if slot == 3 else slot)
        product.scene(slot, field(slot), tags={"AVAILABLE_AT": f"{came:%Y-%m-%dT%H:%M:%SZ}"})
    product.ingest()
    values = [Lead.of(forecast(tuned(product), None, init=product.time(init))).at()[2] for init in (10, 20)]
    assert values == [{1}, {1.5}]


def test_later_frames_are_not_looked_at(make_product: Callable[..., Product]) -> None:
    product = cube_of(make_product, (0, 1, 20, 21))
    assert Lead.of(forecast(tuned(product), None, now=product.time(10))).at()[2] == {0.5}


# --- windows --------------------------------------------------------------------------------------


def test_windows_agree_bit_by_bit_with_the_whole(
    make_product: Callable[..., Product], monkeypatch: pytest.MonkeyPatch
) -> None:
    product = make_product(scenes=PLAIN, grid={"height": 140, "width": 170})
    rng = np.random.default_rng(0)
    for slot in range(9):
        dn = rng.integers(0, 2000, (1, 140, 170)).astype(np.uint16)
        dn[0, rng.random((140, 170)) < (0.9 if slot > 4 else 0.5)] = 65535
        product.scene(slot, dn)
    product.ingest()

    def made(tile: int) -> Forecast:
        settings = tuned(product, forecast={"tile": tile}, motion={"method": "none"})
        situation = situate(settings, product.cube(), None)
        return put(settings, None, View(situation.cube, situation.sample, settings.samples))

    whole = made(1024)
    monkeypatch.setattr("pipeline.filling.TILE", 37)
    pieces = made(64)
    assert {Source.CLIMATOLOGY, Source.EXTRAPOLATION, Source.NONE} == set(np.unique(whole.source))
    for one, other in zip(
        (whole.values, whole.source, whole.age), (pieces.values, pieces.source, pieces.age), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_pixels_are_read_only_where_some_can_be_filled(
    make_product: Callable[..., Product], monkeypatch: pytest.MonkeyPatch
) -> None:
    product = cube_of(make_product, range(8), hole=(0, 1, 2, 5, 6, 7))
    read: list[tuple[int, Any]] = []
    plain = Cube.read

    def noted(cube: Cube, slots: Any, window: Any = None) -> Any:
        read.append((len(slots), window))
        return plain(cube, slots, window)

    monkeypatch.setattr(Cube, "read", noted)

    def reads(settings: Settings, init: int) -> list[tuple[int, Any]]:
        read.clear()
        situation = situate(settings, product.cube(), product.time(init))
        put(settings, None, View(situation.cube, situation.sample, settings.samples))
        return list(read)

    settings = tuned(product, forecast={"delay": timedelta(minutes=1)})
    off = tuned(product, forecast={"delay": timedelta(minutes=1), "climatology_frames": 0})
    assert reads(settings, 4) == reads(off, 4)  # BLIND has no value, and no frame has one for it
    (frames, window), *_ = more = reads(settings, 7)[len(reads(off, 7)) :]
    assert (len(more), frames, window.slices) == (1, 2, HOLE)  # of 5 frames the two that show it, there alone


# --- what else comes of it ------------------------------------------------------------------------


def test_without_any_frame_before_it_nothing_is_published(make_product: Callable[..., Product]) -> None:
    product = cube_of(make_product, (0, 1, 2))
    with pytest.raises(NotEnoughFramesError, match=r"last 4 slots.*05:50Z.*ingest newer scenes or raise samples\.max_"):
        forecast(tuned(product, forecast={"climatology_frames": 0}), None, now=product.time(10))
    late = make_product(scenes=PLAIN | {"latency": timedelta(minutes=1)})
    late.scene(0, field(0))
    late.ingest()
    with pytest.raises(NotEnoughFramesError, match=r"that was available 2024-06-01 05:00Z"):
        forecast(tuned(late), None, init=late.time(0))
    assert all(latest(one.settings.paths.forecasts, "tiny") is None for one in (product, late))


def no_model(*_: object) -> Champion:
    raise AssertionError


@pytest.mark.parametrize("now", [7, 30], ids=["filled in", "alone"])
def test_a_run_with_climatology_comes_out_again(make_product: Callable[..., Product], now: int) -> None:
    product = cube_of(make_product, range(8), hole=(5, 6, 7))
    path = forecast(tuned(product), None, now=product.time(now))
    found = verify(tuned(product, forecast={"climatology_frames": 3}), path, no_model)
    assert (found.verdict, found.obstacles) == (Verdict.EQUAL, ())


def test_a_run_from_before_there_was_a_climatology_comes_out_again(make_product: Callable[..., Product]) -> None:
    product = cube_of(make_product, range(8), hole=(5, 6, 7))
    path = forecast(tuned(product, forecast={"climatology_frames": 0}), None)
    assert "climatology_frames" not in json.loads((path / "run.json").read_text())["specification"]
    assert verify(tuned(product), path, no_model).verdict == Verdict.EQUAL

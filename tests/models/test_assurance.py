from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from models.assurance import Assurance
from pipeline.baselines import Persistence
from pipeline.errors import NotEnoughFramesError
from pipeline.guard import Contest
from pipeline.predictor import Context, Forecast, Source
from pipeline.proof import Judged
from pipeline.rungs import OfBands

BANDS, LEADS, SIDE = (1,), 2, 24
VALID = ((0.0, np.inf),)


@dataclass(frozen=True, slots=True)
class Biased:
    """The newest frame of band 2 with its quantiles at fixed distances, which may lie below nothing."""

    bias: float = 0.0
    width: float = 0.1
    quantities: tuple[str, ...] = ("mean", "q10", "q50", "q90")

    def predict(self, context: Context, horizon: int) -> Forecast:
        steps = {"mean": 0, "q10": -self.width, "q50": 0, "q90": self.width}
        newest = context.values[:, -1, ..., BANDS[0] :] + self.bias
        said = np.stack([newest + np.float32(steps[name]) for name in self.quantities], axis=1)
        values = np.repeat(said[:, np.newaxis], horizon, axis=1).astype(np.float32)
        shape = (len(values), horizon, *context.grid_shape)
        return Forecast(values, np.full(shape, Source.NETWORK, np.uint8), np.zeros(shape, np.float32), self.quantities)


def sky(seed: int) -> Context:
    """Mostly nothing, and never less."""
    random = np.random.default_rng(seed)
    values = np.maximum(random.normal(size=(1, 2, SIDE, SIDE, 2)), 0).astype(np.float32)
    values[0, :, :3, :4] = np.nan
    return Context(values, np.isfinite(values), np.zeros((1, 2), np.int64), np.array([[1, 0]], np.float32))


def contest(seed: int, network: Biased, noise: float = 0.5) -> Contest:
    """What comes is the newest frame, disturbed."""
    seen = sky(seed)
    still = OfBands(Persistence(), BANDS).predict(seen, LEADS)
    disturbed = np.random.default_rng(100 + seed).normal(scale=noise, size=(LEADS, SIDE, SIDE, 1))
    truth = np.maximum(still.of("mean")[0] + disturbed, 0).astype(np.float32)
    return Contest(network.predict(seen, LEADS), still, truth)


def learned(network: Biased, count: int = 6) -> Assurance:
    return Assurance.learned([contest(seed, network) for seed in range(count)], BANDS, VALID, matched=1.0)


def test_a_mended_forecast_says_nothing_impossible() -> None:
    network, seen = Biased(bias=-0.3, width=0.4), sky(50)
    said = learned(network).of(network).predict(seen, LEADS)
    assert said.quantities == ("mean", "q10", "q50", "q90")
    assert (np.nanmin(said.values), np.nanmin(network.predict(seen, LEADS).values)) == (0, pytest.approx(-0.7))
    assert (said.source == Source.NETWORK).all()
    low, median, high = (said.of(name) for name in ("q10", "q50", "q90"))
    known = np.isfinite(median)
    assert (low[known] <= median[known]).all()
    assert (median[known] <= high[known]).all()


def test_a_network_that_is_worse_than_extrapolation_is_pulled_towards_it() -> None:
    biased, fair, seen = Biased(bias=1.0), Biased(), sky(52)
    still = OfBands(Persistence(), BANDS).predict(seen, LEADS).of("mean")
    for quantity in ("mean", "q50"):
        before = biased.predict(seen, LEADS).of(quantity)
        after = learned(biased).of(biased).predict(seen, LEADS).of(quantity)
        assert np.nanmean(np.abs(after - still)) < 0.4 * np.nanmean(np.abs(before - still))
    kept = learned(fair).of(fair).predict(seen, LEADS).of("mean")
    np.testing.assert_allclose(kept, fair.predict(seen, LEADS).of("mean"), atol=1e-6)


def test_intervals_that_are_too_narrow_are_widened_until_they_hold_what_they_say() -> None:
    network = Biased(width=0.1)
    mended = learned(network, count=10).of(network)
    held = {"before": 0.0, "after": 0.0}
    for seed in range(60, 66):
        truth = contest(seed, network).truth
        for name, one in (("before", network), ("after", mended)):
            said = one.predict(sky(seed), LEADS)
            wet = np.isfinite(truth) & (truth > 0)
            inside = (truth >= said.of("q10")[0]) & (truth <= said.of("q90")[0])
            held[name] += inside[wet].mean() / 6
    assert held["before"] < 0.3
    assert 0.7 < held["after"] < 0.95


def test_a_network_without_quantiles_needs_no_calibration() -> None:
    plain = Biased(quantities=("mean",))
    found = learned(plain)
    assert found.calibration is None
    assert found.of(plain).predict(sky(53), LEADS).quantities == ("mean",)


@pytest.mark.parametrize("network", [Biased(bias=-0.2), Biased(quantities=("mean",))], ids=["quantiles", "mean"])
def test_what_was_learned_survives_json_and_mends_alike(network: Biased) -> None:
    found, seen = learned(network), sky(54)
    document: dict[str, Any] = json.loads(json.dumps(found.to_json(), allow_nan=False))
    again = Assurance.from_json(document)
    assert (again.bands, again.valid, again.matched) == (found.bands, found.valid, found.matched)
    assert again.to_json() == found.to_json()
    one, other = (each.of(network).predict(seen, LEADS) for each in (found, again))
    np.testing.assert_array_equal(other.values, one.values)


def test_nothing_can_be_learned_from_nothing() -> None:
    with pytest.raises(NotEnoughFramesError):
        Assurance.learned([], BANDS, VALID, matched=1.0)


def test_its_intervals_are_proved_by_init_times_that_taught_them_nothing() -> None:
    found = learned(Biased(width=0.1))
    assert found.proof is not None
    assert found.proof.judged is Judged.LEFT_OUT
    assert (found.proof.inits == 6).all()
    assert found.to_json()["validation"]["pixels"] == found.proof.pixels.tolist()
    assert learned(Biased(quantities=("mean",))).proof is None


def test_what_was_kept_before_there_were_proofs_has_none() -> None:
    document = learned(Biased()).to_json()
    del document["validation"]
    assert Assurance.from_json(document).proof is None

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.assurance import Assurance
from models.beginning import assured, begin
from models.losses import loss_of
from models.material import Material
from models.networks import build
from models.prediction import Card, Network
from models.validation import Judge, skill
from pipeline.config import Settings
from pipeline.errors import ModelError
from pipeline.predictor import MATCHED
from pipeline.rungs import forecast_bands
from pipeline.samples import read_context
from tests.models.products import again, changed, prepared

Networks = Callable[..., Network]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A registry with one champion, or none."""

    champion: Network | None = None

    def load_champion(self, settings: Settings) -> Network | None:
        del settings
        return self.champion


EMPTY: Any = Shelf()


def beginning(settings: Settings, material: Material, kept: Path, champion: Network | None = None) -> Any:
    shelf: Any = Shelf(champion)
    return begin(settings, material, kept, shelf)


@pytest.fixture(scope="module")
def material(sky: Settings) -> Material:
    return prepared(sky)


@pytest.fixture(scope="module")
def first(sky: Settings, material: Material, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The file and the weights."""
    kept = tmp_path_factory.mktemp("begun") / "initial.npz"
    return kept, begin(sky, material, kept, EMPTY)


def warm(sky: Settings, **training: Any) -> Settings:
    return again(sky, training=sky.training.model_dump() | {"warm_start": "champion"} | training)


# --- first weights --------------------------------------------------------------------------------


def test_a_training_begins_with_a_head_that_is_better_than_extrapolation(
    sky: Settings, material: Material, first: tuple[Path, Any]
) -> None:
    spec = material.card.network
    judge = Judge.over(material.validation, spec, loss_of(spec.levels, material.card.statistics))
    assert skill(judge.measure(first[1]).squared, judge.reference) > 0.05
    model: Any = build(spec)
    assert [one.shape for one in first[1]] == [one.shape for one in model.get_weights()]


def test_what_a_training_begins_with_is_kept_and_found_again(
    sky: Settings, material: Material, first: tuple[Path, Any]
) -> None:
    kept, weights = first
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    nothing: Any = replace(material, training=None, validation=())  # whoever learns again would fail
    found = begin(sky, nothing, kept, EMPTY)
    assert [one.tobytes() for one in found] == [one.tobytes() for one in weights]


def test_a_file_that_is_broken_is_made_again(
    sky: Settings, material: Material, first: tuple[Path, Any], tmp_path: Path
) -> None:
    kept = tmp_path / "initial.npz"
    kept.write_bytes(b"PK\x03\x04 half a file")
    weights = begin(sky, material, kept, EMPTY)
    assert weights is not None
    assert [one.tobytes() for one in weights] == [one.tobytes() for one in first[1]]
    with np.load(kept) as arrays:
        assert len(arrays.files) == len(weights)


def test_a_pixel_lstm_begins_with_its_seed(sky: Settings, tmp_path: Path) -> None:
    settings = changed(sky, tmp_path, training=sky.training.model_dump() | {"network": "pixel_lstm", "patch": 1})
    assert begin(settings, prepared(settings), tmp_path / "initial.npz", EMPTY) is None
    assert not (tmp_path / "initial.npz").exists()


# --- a champion's weights -------------------------------------------------------------------------


def champion_of(material: Material, make_network: Networks, settings: Settings, **card: Any) -> Network:
    network = make_network(settings, trained=True)
    return replace(network, card=replace(material.card, **card))


def test_a_warm_start_begins_with_the_champions_weights(
    sky: Settings, material: Material, make_network: Networks, tmp_path: Path
) -> None:
    champion = champion_of(material, make_network, sky)
    found = beginning(warm(sky), material, tmp_path / "initial.npz", champion)
    for one, expected in zip(found, champion.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, expected)


def test_a_warm_start_needs_a_champion(sky: Settings, material: Material, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no champion: set training\.warm_start = 'none'"):
        beginning(warm(sky), material, tmp_path / "initial.npz")
    assert not list(tmp_path.iterdir())


def test_a_warm_start_refuses_a_network_of_another_shape_or_pixel_size(
    sky: Settings, material: Material, make_network: Networks, tmp_path: Path
) -> None:
    pixel = material.card.pixel
    assert pixel == pytest.approx(abs(sky.grid.geobox().transform.a), rel=1e-3)
    for others in (
        {"network": replace(material.card.network, head_units=7)},
        {"network": replace(material.card.network, levels=(0.25, 0.5))},
        {"pixel": pixel + 1},
    ):
        champion = champion_of(material, make_network, sky, **others)
        with pytest.raises(ModelError, match=r"of the same shape and pixel size; the champion, version 1"):
            beginning(warm(sky), material, tmp_path / "initial.npz", champion)
    assert not list(tmp_path.iterdir())


def test_a_warm_start_refuses_weights_that_know_what_is_to_judge_them(
    sky: Settings, material: Material, make_network: Networks, tmp_path: Path
) -> None:
    own, axis = material.card.seen, material.cube.layout.axis
    assert own is not None
    assert own.meets(material.split, axis) == ""
    last = axis.valid_time(material.cube.size)
    for seen, part in (
        (replace(own, area=material.split.validation_area), "validation"),
        (replace(own, until=last), "test"),
    ):
        champion = champion_of(material, make_network, sky, seen=seen)
        with pytest.raises(ModelError, match=rf"version 1, has seen a part of {part} .*warm_start = 'none'"):
            beginning(warm(sky), material, tmp_path / "initial.npz", champion)
    assert not list(tmp_path.iterdir())


def test_what_a_network_has_seen_is_known_from_its_card(material: Material) -> None:
    assert Card.from_json(json.loads(json.dumps(material.card.to_json()))).seen == material.card.seen


# --- what held-out truths teach -------------------------------------------------------------------


def test_held_out_truths_mend_a_network_which_then_has_every_quantity(
    sky: Settings, material: Material, make_network: Networks
) -> None:
    model = make_network(sky, trained=True).model
    network = assured(sky, material, model)
    card = network.card
    assert card.assurance is not None
    assert (card.assurance.bands, len(card.assurance.valid)) == (forecast_bands(sky), 1)
    assert card.assurance.guard.horizon == sky.samples.horizon
    assert replace(card, assurance=None) == material.card
    kept = Card.from_json(json.loads(json.dumps(card.to_json()))).assurance
    assert isinstance(kept, Assurance)
    assert kept.doubt is not None
    assert kept.doubt.offsets.shape == (sky.samples.horizon, 2, 1)
    assert (kept.doubt.offsets[:, 1] > kept.doubt.offsets[:, 0]).all()
    assert network.champion().doubt is not None
    assert isinstance(Card.from_json(card.to_json()).assurance, Assurance)
    proof = card.assurance.proof
    assert proof is not None
    assert proof.coverage.shape == (sky.samples.horizon, 1)
    assert network.champion().validation == proof.to_json()
    seen = read_context(material.cube, material.split.validation[-1], sky.samples)
    said = network.champion(sky.forecast.tile).predictor.predict(seen, sky.samples.horizon)
    assert said.quantities == (*material.card.network.quantities, MATCHED)
    low, median, high = (said.of(name) for name in ("q10", "q50", "q90"))
    known = np.isfinite(median)
    assert known.any()
    assert (low[known] <= median[known]).all()
    assert (median[known] <= high[known]).all()


def test_forecasts_of_a_network_that_was_assured_lie_within_the_bands_own_bounds(
    sky: Settings, material: Material, make_network: Networks
) -> None:
    document = sky.bands[0].model_dump() | {"valid_min": 0.2, "valid_max": 0.4}
    bounded = again(sky, bands=[document])
    network = assured(bounded, material, make_network(sky, trained=True).model)
    assert network.card.assurance is not None
    assert network.card.assurance.valid == ((0.2, 0.4),)
    seen = read_context(material.cube, material.split.validation[0], sky.samples)
    mended = network.card.assurance.of(network.scaled(64)).predict(seen, 2)
    points = np.concatenate([mended.of(name) for name in network.card.network.quantities])
    assert np.nanmin(points) >= np.float32(0.2)
    assert np.nanmax(points) <= np.float32(0.4)
    bare = network.scaled(64).predict(seen, 2).values
    assert np.nanmin(bare) < 0.2 or np.nanmax(bare) > 0.4

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from models.skillstudy import SPECIFICATION, Learned, Watcher, Wish, specify, study
from models.variants import FULL, Variant, variants_for
from pipeline.baselines import Persistence
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube
from pipeline.errors import NotEnoughFramesError
from pipeline.predictor import Context, Forecast
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.store import CubeStore
from tests.models.products import changed

PARTS = (
    Variant(FULL, "all"),
    Variant("convlstm", "less", {"network": "convlstm"}, wholes=(FULL,)),
    Variant("with a gap", "all, tested with a gap", hidden=(1,)),
)
WISH = Wish(seeds=2, inits=3, variants=PARTS)


@dataclass(frozen=True, slots=True)
class Shifted:
    """A predictor that is wrong by so much more than persistence."""

    error: float

    def predict(self, context: Context, horizon: int) -> Forecast:
        said = Persistence().predict(context, horizon)
        return replace(said, values=said.values + np.float32(self.error))


@dataclass(slots=True)
class Trainer:
    """Makes predictors that are the worse, the less the network has; fails when told to."""

    made: list[tuple[str, int]] = field(default_factory=list)
    fails_at: int | None = None
    root: Path | None = None

    def __call__(self, settings: Settings, cube: Cube, folder: Path) -> Learned:
        if len(self.made) == self.fails_at:
            raise KeyboardInterrupt
        if self.root is not None:
            assert list(self.root.glob(f"study/*/{SPECIFICATION}"))
        kind, seed = settings.training.network, settings.training.seed
        self.made.append((kind, seed))
        error = 0.5 * (kind == "convlstm") + 0.01 * seed
        return Learned(Champion(Shifted(error), ModelRef("tiny", "study", "network")), 1.0, 7)


@pytest.fixture
def product(sky: Settings, tmp_path: Path) -> Settings:
    return changed(sky, tmp_path, samples=sky.samples.model_dump() | {"test_fraction": 0.4})


def cube(settings: Settings) -> Cube:
    return open_cube(CubeStore(settings.paths.cube))


def test_everything_is_scored_at_the_same_init_times_spread_evenly(product: Settings) -> None:
    found = study(product, WISH, trainer=Trainer())
    slots = {tuple(one.tally.slots.tolist()) for one in found.entries}
    assert len(slots) == 1
    assert len(next(iter(slots))) == 3
    assert {"persistence", "extrapolation", *(one.name for one in PARTS)} <= set(found.names)
    assert [len(found.of(name)) for name in ("persistence", FULL)] == [1, 2]
    counts = [one.tally.count.sum() for one in found.entries]
    assert len(set(counts)) == 1


def test_what_needs_no_training_is_tested_with_the_same_gap_as_the_networks(product: Settings) -> None:
    found = {one.name: one for one in study(product, WISH, trainer=Trainer()).entries}
    gapped = [name for name, one in found.items() if one.hidden]
    assert gapped == ["extrapolation with a gap", "persistence with a gap", "with a gap"]
    moved = [found[name].tally.absolute for name in ("extrapolation", "extrapolation with a gap")]
    assert not np.array_equal(*moved)  # the flow comes of other frames
    still = [found[name].tally.absolute for name in ("persistence", "persistence with a gap")]
    np.testing.assert_array_equal(*still)  # persistence looks at the newest frame alone
    assert study(product, Wish(seeds=1, inits=2, variants=PARTS[:1]), trainer=Trainer()).names[-1] == FULL


def test_a_part_that_is_worth_something_is_found_in_every_seed(product: Settings) -> None:
    found = {one.part: one for one in study(product, WISH, trainer=Trainer()).comparisons() if one.measure == "MAE"}
    assert found["convlstm"].evidence.estimate < 0
    assert (found["convlstm"].better, found["convlstm"].pairs) == (2, 2)
    assert found["convlstm"].evidence.verdict.value == "insufficient evidence"  # three init times of one event


def test_the_specification_lies_there_before_anything_is_trained_or_scored(product: Settings) -> None:
    phases: list[str] = []

    def phase(name: str) -> None:
        phases.append(name)
        assert list(product.paths.root.glob(f"study/*/{SPECIFICATION}"))

    found = study(product, WISH, trainer=Trainer(root=product.paths.root), watcher=Watcher(phase))
    written = json.loads((product.paths.root / "study" / found.key / SPECIFICATION).read_text())
    assert phases[0] == "scoring persistence"
    assert written["seeds"] == [0, 1]
    assert len(written["inits"]) == 3
    assert [one["name"] for one in written["variants"]] == [one.name for one in PARTS]
    assert {"events", "measures", "code", "snapshot", "references"} <= set(written)


def test_a_study_that_was_stopped_trains_only_what_was_not_trained(product: Settings) -> None:
    first = Trainer(fails_at=3)
    with pytest.raises(KeyboardInterrupt):
        study(product, WISH, trainer=first)
    second, third = Trainer(), Trainer()
    found = study(product, WISH, trainer=second)
    assert first.made == [("attention", 0), ("convlstm", 0), ("attention", 1)]
    assert second.made == [("convlstm", 1), ("attention", 1)]  # the second for the look at it with a gap
    assert study(product, WISH, trainer=third).to_json() == found.to_json()
    assert third.made == []
    whole = study(product, replace(WISH, inits=2), trainer=third)
    assert whole.key != found.key
    assert len(third.made) == 4  # a network and the same one with a gap share a training


def test_whatever_decides_the_result_decides_the_key(product: Settings) -> None:
    def key(settings: Settings, wish: Wish) -> str:
        return specify(settings, cube(settings), wish).key

    training = product.training.model_copy(update={"epochs": 5})
    longer = product.model_copy(update={"training": training})
    wishes = [WISH, replace(WISH, seeds=3), replace(WISH, thresholds=(0.3,)), replace(WISH, variants=PARTS[:1])]
    keys = [key(product, one) for one in wishes] + [key(longer, WISH)]
    assert len(set(keys)) == len(keys)
    assert key(product, WISH) == keys[0]


def test_thresholds_come_from_the_training_part_unless_they_are_given(product: Settings) -> None:
    guessed = specify(product, cube(product), WISH).events[0].thresholds
    assert list(guessed) == sorted(guessed)
    assert len(guessed) == 3
    assert specify(product, cube(product), replace(WISH, thresholds=(0.2, 0.4))).events[0].thresholds == (0.2, 0.4)


def test_a_cube_without_a_complete_test_sample_cannot_be_studied(sky: Settings, tmp_path: Path) -> None:
    far = changed(sky, tmp_path, samples=sky.samples.model_dump() | {"horizon": 6, "test_fraction": 0.2})
    with pytest.raises(NotEnoughFramesError, match="truth has come"):
        specify(far, cube(far), WISH)


def test_a_seasonal_network_is_studied_like_any_other(sky: Settings, tmp_path: Path) -> None:
    product = changed(sky, tmp_path, training=sky.training.model_dump() | {"network": "seasonal"})
    found = study(product, Wish(seeds=1, inits=1, variants=variants_for(product)[:2]))
    whole, part = found.of("seasonal")[0], found.of("without attention")[0]
    assert whole.parameters > 0
    assert part.wholes == ("seasonal",)
    assert np.isfinite(whole.tally.mae).all()


@pytest.mark.slow
def test_a_real_network_is_trained_once_for_all_that_share_it(sky: Settings, tmp_path: Path) -> None:
    product = changed(sky, tmp_path, training=sky.training.model_dump() | {"epochs": 1, "steps_per_epoch": 2})
    parts = (
        Variant("head", "one", {"network": "head"}),
        Variant("head, gap", "same", {"network": "head"}, hidden=(1,)),
    )
    found = study(product, Wish(seeds=1, inits=2, variants=parts))
    whole, gap = found.of("head")[0], found.of("head, gap")[0]
    assert whole.training_cpu == gap.training_cpu > 0
    assert whole.parameters == gap.parameters > 0
    assert len(list((product.paths.root / "study" / found.key / "trainings").iterdir())) == 1
    assert np.isfinite(whole.tally.mae).all()
    assert not np.array_equal(whole.tally.mae, gap.tally.mae)

"""One training from cube to registered model: split, align, fit, score against the baselines, explain, register."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.exhibit import write_exhibits
from models.networks import NetworkSpec
from models.prediction import Card, Network
from models.registry import Registered, Registry
from models.training import Progress, Tracker, fit
from pipeline.chips import AlignedFrames, ChipReader, Chips, Recipe, chip_size
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube, store_of
from pipeline.evaluation import Scores, evaluate
from pipeline.forecast import baselines, forecast_bands, outlet
from pipeline.grid import Window
from pipeline.metrics import ErrorRow, skill
from pipeline.normalise import measure
from pipeline.record import ModelRef
from pipeline.samples import Sample, Split, split, thin
from pipeline.specs import TrainingSpec

VALIDATION_CHIPS = 48
TEST_PIXELS = 8_000_000  # scored after every training: 4 init times of a full Meteosat frame, all of a small product
TEST_INITS = (4, 64)  # at least and at most
MODEL = "model"
EXHIBITS = "attention"


@dataclass(frozen=True, slots=True)
class Watcher:
    """Told how a training goes on; every part may be left out.

    Attributes:
        phase: told the name of each phase as it starts.
        prepared: told how many samples are aligned, of how many.
        step: told each training step.
    """

    phase: Callable[[str], None] | None = None
    prepared: Callable[[int, int], None] | None = None
    step: Callable[[Progress], None] | None = None

    def enter(self, name: str) -> None:
        """A phase starts."""
        if self.phase is not None:
            self.phase(name)


@dataclass(frozen=True, slots=True)
class Material:
    """What a training learns from.

    Attributes:
        cube: the data, at one snapshot.
        split: which part is for what.
        card: what the weights will mean.
        training: where chips are drawn from.
        validation: the chips that watch.
    """

    cube: Cube
    split: Split
    card: Card
    training: ChipReader
    validation: tuple[Chips, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training came to.

    Attributes:
        registered: the model version.
        history: one entry an epoch.
        scores: of model and baselines over the test part; None where no test sample is complete.
        snapshot: of the cube.
        good: worth publishing; see :func:`beats_baselines`.
    """

    registered: Registered
    history: tuple[dict[str, float], ...]
    scores: Scores | None
    snapshot: str
    good: bool

    def table(self, settings: Settings) -> list[ErrorRow]:
        """Errors over the test part by lead and band; empty where there are no scores."""
        return [] if self.scores is None else self.scores.rows(outlet(settings).bands, settings.axis.cadence)


def train(settings: Settings, registry: Registry, *, watcher: Watcher | None = None) -> Outcome:
    """Trains the product's network on the newest snapshot and registers it.

    Raises:
        ConfigError: the grid is too small for the network's patches.
        ModelError: the training diverges.
        NotEnoughFramesError: the cube is too short.
        StoreError: there is no cube.
    """
    watcher = watcher or Watcher()
    store = store_of(settings)
    cube = open_cube(store)
    with registry.run(f"train {cube.snapshot[:8]}") as tracker:
        store.tag(f"training-{tracker.run_id}", cube.snapshot)  # expiry leaves alone what a model was made from
        watcher.enter("aligning frames along the motion")
        material = prepare(settings, cube, watcher)
        _log_setup(tracker, settings, material)
        watcher.enter("training")
        fitted = fit(
            material.card.network,
            settings.training,
            material.training,
            material.validation,
            tracker,
            progress=watcher.step,
        )
        watcher.enter("scoring the test part")
        ref = ModelRef(settings.product.name, f"run {tracker.run_id[:8]}", "network")
        network = Network(fitted.model, material.card, ref)
        scores = score(settings, material, network)
        skills = mean_skills(scores)
        good = beats_baselines(fitted.best["val_skill"], skills)
        _log_scores(tracker, scores, settings)
        tracker.metrics({f"test_skill_{name}": value for name, value in skills.items()} | {"good": good}, step=0)
        watcher.enter("drawing attention maps")
        _log_exhibits(tracker, settings, material, network)
        watcher.enter("registering")
        registered = registry.register(tracker, fitted.model, material.card, good=good)
    return Outcome(registered, fitted.history, scores, cube.snapshot, good)


def mean_skills(scores: Scores | None) -> dict[str, float]:
    """Mean over leads and bands of the part of each baseline's squared error that the model takes away.

    Squared, because the network is trained for it: where mostly nothing comes, as on radar, the mean of what may come
    has a larger absolute error than nothing has. Baselines without any error are left out.
    """
    if scores is None:
        return {}
    squared = {name: sums.rmse**2 for name, sums in scores.sums.items()}
    skills = {name: skill(squared[MODEL], error) for name, error in squared.items() if name != MODEL}
    return {name: float(known.mean()) for name, one in skills.items() if len(known := one[np.isfinite(one)])}


def beats_baselines(validation_skill: float, test_skills: Mapping[str, float]) -> bool:
    """Whether a network is worth more than what it would replace.

    Twice asked: on the validation chips, which also chose its best epoch, so that a lucky one would pass; and over the
    test part, which had no say in it, on whole forecasts. Without a complete test sample the chips decide alone.

    >>> beats_baselines(0.3, {"persistence": 0.5, "extrapolation": 0.1}), beats_baselines(0.3, {"extrapolation": -0.1})
    (True, False)
    """
    return validation_skill > 0 and all(value > 0 for value in test_skills.values())


def prepare(settings: Settings, cube: Cube, watcher: Watcher) -> Material:
    """Splits the cube, measures its statistics, aligns what the training needs."""
    bands = forecast_bands(settings)
    network = network_spec(settings)
    grid = cube.layout.grid.shape
    parts = split(cube.observed(), settings.samples, (grid[0], grid[1]), settings.samples.block_buffer)
    for area in (parts.training_area, parts.validation_area):
        chip_size(area, settings.training.chip, settings.training.patch)  # refuses before the long work, not after it
    slots = sorted({slot for one in parts.training for slot in one.slots} & set(cube.observed().tolist()))
    statistics = measure(cube, slots, [parts.training_area])
    card = Card(network, statistics, settings.samples, settings.motion, tuple(band.name for band in settings.bands))
    recipe = Recipe(settings.samples, settings.motion, statistics, bands)
    source = AlignedFrames(cube, recipe, settings.paths.cache)
    wanted = sorted({*parts.training, *parts.validation}, key=lambda one: one.init)
    aligned = dict(zip(wanted, source.prepare(wanted, progress=watcher.prepared), strict=True))
    return Material(cube, parts, card, *_readers(settings.training, parts, aligned))


def _readers(spec: TrainingSpec, parts: Split, aligned: Mapping[Sample, Chips]) -> tuple[ChipReader, tuple[Chips, ...]]:
    def reader(samples: Sequence[Sample], area: Window, seed: int, *, augment: bool) -> ChipReader:
        size = chip_size(area, spec.chip, spec.patch)
        return ChipReader(tuple(aligned[one] for one in samples), area, size, spec.batch, seed, augment)

    training = reader(parts.training, parts.training_area, spec.seed, augment=True)
    watching = reader(parts.validation, parts.validation_area, seed=0, augment=False)
    return training, tuple(watching.read(step) for step in range(-(-VALIDATION_CHIPS // spec.batch)))


def network_spec(settings: Settings) -> NetworkSpec:
    """The network that a configuration asks for."""
    spec = settings.training
    return NetworkSpec(
        context_frames=settings.samples.context_frames,
        horizon=settings.samples.horizon,
        bands_in=len(settings.bands),
        bands_out=forecast_bands(settings),
        patch=spec.patch,
        filters=spec.filters,
        attention_units=spec.attention_units,
    )


def score(settings: Settings, material: Material, network: Network) -> Scores | None:
    """Model and baselines over the test part, on the same pixels; None where no test sample is complete."""
    predictors = {MODEL: network.champion(settings.forecast.tile).predictor, **baselines(settings)}
    tests = complete_tests(material.split, material.cube)
    if not tests:
        return None
    height, width = material.cube.layout.grid.shape
    wanted = min(max(TEST_PIXELS // (height * width), TEST_INITS[0]), TEST_INITS[1])
    return evaluate(
        predictors,
        material.cube,
        thin(tests, wanted),
        settings.samples,
        forecast_bands(settings),
        fallback="extrapolation",
    )


def complete_tests(parts: Split, cube: Cube) -> list[Sample]:
    """Test samples whose every target lies within the cube's time axis."""
    return [one for one in parts.test if one.targets[-1] < cube.size]


def _log_exhibits(tracker: Tracker, settings: Settings, material: Material, network: Network) -> None:
    """One forecast shown: the newest complete one of the test part that has anything to see, else of validation."""
    offered = [*complete_tests(material.split, material.cube)[::-1], *material.split.validation[::-1]]
    shown = next((one for one in offered if material.cube.read(one.context).validity.any()), None)
    if shown is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in write_exhibits(settings, network, material.cube, shown, Path(folder)):
            tracker.artifact(path, EXHIBITS)


def _log_setup(tracker: Tracker, settings: Settings, material: Material) -> None:
    statistics = material.card.statistics
    tracker.parameters(
        {
            **{f"training.{key}": value for key, value in settings.training.model_dump(mode="json").items()},
            **{f"samples.{key}": value for key, value in settings.samples.model_dump(mode="json").items()},
            **{f"motion.{key}": value for key, value in settings.motion.model_dump(mode="json").items()},
            **material.split.describe(),
            "snapshot": material.cube.snapshot,
            "statistics.mean": statistics.mean,
            "statistics.deviation": statistics.deviation,
        }
    )


def _log_scores(tracker: Tracker, scores: Scores | None, settings: Settings) -> None:
    """One metric a predictor, measure and band; its step is the lead time in minutes."""
    rows = [] if scores is None else scores.rows(outlet(settings).bands, settings.axis.cadence)
    for row in rows:
        maes = {f"test_mae_{name}_{row.band}": value for name, value in row.mae.items()}
        rmses = {f"test_rmse_{name}_{row.band}": value for name, value in row.rmse.items()}
        tracker.metrics(maes | rmses, row.lead_minutes)

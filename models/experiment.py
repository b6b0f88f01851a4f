"""One training from cube to registered model: split, align, fit, score against the baselines, explain, register."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.exhibit import write_exhibits
from models.networks import NetworkSpec
from models.prediction import Card, Network
from models.registry import Registered, Registry
from models.training import Progress, Tracker, fit
from pipeline.baselines import Ladder
from pipeline.chips import AlignedFrames, ChipReader, Chips, Recipe, chip_size
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube
from pipeline.evaluation import Scores, evaluate
from pipeline.forecast import baselines, forecast_bands
from pipeline.normalise import measure
from pipeline.record import ModelRef
from pipeline.samples import Sample, Split, split, thin
from pipeline.store import CubeStore
from pipeline.times import minutes

VALIDATION_CHIPS = 48
TEST_PIXELS = 14_000_000  # scored after every training: 8 init times of a full Meteosat frame, all of a small product
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
class TestRow:
    """Errors at one lead and band over the test part, by predictor, in the unit of the band."""

    lead_minutes: int
    band: str
    unit: str
    mae: dict[str, float]
    rmse: dict[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training came to.

    Attributes:
        registered: the model version.
        history: one entry an epoch.
        scores: of model and baselines over the test part; None where no test sample is complete.
        snapshot: of the cube.
    """

    registered: Registered
    history: tuple[dict[str, float], ...]
    scores: Scores | None
    snapshot: str

    def table(self, settings: Settings) -> list[TestRow]:
        """Errors over the test part by lead and band; empty where there are no scores."""
        return [] if self.scores is None else _rows(self.scores, settings)


def train(settings: Settings, registry: Registry, *, watcher: Watcher | None = None) -> Outcome:
    """Trains the product's network on the newest snapshot and registers it.

    Raises:
        NotEnoughFramesError: the cube is too short.
        StoreError: there is no cube.
    """
    watcher = watcher or Watcher()
    cube = open_cube(CubeStore(settings.paths.cube))
    with registry.run(f"train {cube.snapshot[:8]}") as tracker:
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
        network = Network(fitted.model, material.card, ModelRef(settings.product.name, tracker.run_id, "network"))
        scores = score(settings, material, network)
        if scores is not None:
            _log_scores(tracker, scores, settings)
        watcher.enter("drawing attention maps")
        _log_exhibits(tracker, settings, material, network)
        watcher.enter("registering")
        registered = registry.register(tracker, fitted.model, material.card, good=fitted.best["val_skill"] > 0)
    return Outcome(registered, fitted.history, scores, cube.snapshot)


def prepare(settings: Settings, cube: Cube, watcher: Watcher) -> Material:
    """Splits the cube, measures its statistics, aligns what the training needs."""
    bands = forecast_bands(settings)
    network = network_spec(settings)
    grid = cube.layout.grid.shape
    parts = split(cube.observed(), settings.samples, (grid[0], grid[1]), settings.samples.block_buffer)
    slots = sorted({slot for one in parts.training for slot in one.slots} & set(cube.observed().tolist()))
    statistics = measure(cube, slots, [parts.training_area])
    card = Card(network, statistics, settings.samples, settings.motion, tuple(band.name for band in settings.bands))
    recipe = Recipe(settings.samples, settings.motion, statistics, bands)
    source = AlignedFrames(cube, recipe, settings.paths.cache)
    wanted = sorted({*parts.training, *parts.validation}, key=lambda one: one.init)
    for done, _ in enumerate(source.prepare(wanted), start=1):
        if watcher.prepared is not None:
            watcher.prepared(done, len(wanted))
    return Material(cube, parts, card, *_readers(settings, source, parts))


def _readers(settings: Settings, source: AlignedFrames, parts: Split) -> tuple[ChipReader, tuple[Chips, ...]]:
    spec = settings.training
    size = chip_size(parts.training_area, spec.chip, spec.patch)
    training = ChipReader(source, parts.training, parts.training_area, size, spec.batch, spec.seed)
    small = chip_size(parts.validation_area, spec.chip, spec.patch)
    watching = ChipReader(source, parts.validation, parts.validation_area, small, spec.batch, seed=0, augment=False)
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
    references = baselines(settings)
    ours = network.champion(settings.forecast.tile).predictor
    predictors = {MODEL: Ladder((ours, references["extrapolation"])), **references}
    tests = complete_tests(material.split, material.cube)
    if not tests:
        return None
    height, width = material.cube.layout.grid.shape
    wanted = min(max(TEST_PIXELS // (height * width), TEST_INITS[0]), TEST_INITS[1])
    return evaluate(predictors, material.cube, thin(tests, wanted), settings.samples, forecast_bands(settings))


def complete_tests(parts: Split, cube: Cube) -> list[Sample]:
    """Test samples whose every target lies within the cube's time axis."""
    return [one for one in parts.test if one.targets[-1] < cube.size and one.context]


def _log_exhibits(tracker: Tracker, settings: Settings, material: Material, network: Network) -> None:
    """One forecast of the test part, shown: its newest complete one, or the newest of validation."""
    shown = (complete_tests(material.split, material.cube) or list(material.split.validation))[-1]
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


def _rows(scores: Scores, settings: Settings) -> list[TestRow]:
    bands = [settings.bands[index] for index in forecast_bands(settings)]
    return [
        TestRow(
            minutes((lead + 1) * settings.axis.cadence),
            band.name,
            band.units,
            {name: float(sums.mae[lead, index]) for name, sums in scores.sums.items()},
            {name: float(sums.rmse[lead, index]) for name, sums in scores.sums.items()},
        )
        for lead in range(settings.samples.horizon)
        for index, band in enumerate(bands)
    ]


def _log_scores(tracker: Tracker, scores: Scores, settings: Settings) -> None:
    """One metric a predictor, measure and band; its step is the lead time in minutes."""
    for row in _rows(scores, settings):
        maes = {f"test_mae_{name}_{row.band}": value for name, value in row.mae.items()}
        rmses = {f"test_rmse_{name}_{row.band}": value for name, value in row.rmse.items()}
        tracker.metrics(maes | rmses, row.lead_minutes)

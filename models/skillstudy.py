"""What the product's forecasts are worth, and which part of the network earned it: several seeds, the same init times.

What is going to be compared and how (settings, init times, variants, seeds, snapshot, thresholds, code) is written down
and hashed before anything of the test part is scored; the hash names the folder of the study. What was trained or
scored there is not done again, so that a study that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.appraisal import complete_tests
from models.beginning import assured, begin
from models.checkpoint import Checkpoints
from models.material import Basis, Plan, plan, prepare
from models.networks import Kind
from models.registry import Registry
from models.seasons import learn_seasons
from models.training import Fitted, fit
from models.variants import LESS, VARIANTS, Blindfold, Variant, gapped
from pipeline.baselines import Ladder
from pipeline.bounds import valid_ranges
from pipeline.climatology import Climatology
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.cube import Cube, open_cube, store_of
from pipeline.durable import make_folders, replace_text
from pipeline.errors import NotEnoughFramesError
from pipeline.events import Events, below_counts
from pipeline.pairs import Pair
from pipeline.peers import installed, peers
from pipeline.predictor import Predictor
from pipeline.rungs import Champion, OfBands, baselines, forecast_bands, ladder
from pipeline.samples import Sample, read_context, read_targets, thin
from pipeline.skill import Entry, Skill
from pipeline.tally import Measures, Tally, meet
from pipeline.times import stamp

SPECIFICATION: Final = "specification.json"
RESULTS: Final = "results.json"
INITIAL: Final = "initial.npz"
HASH_LENGTH: Final = 12
SEEDS: Final = 3
INITS: Final = 24
QUANTILES: Final = (0.5, 0.9, 0.98)  # of what is above the floor in the training part: thresholds of events
SAMPLED_FRAMES: Final = 12
YEAR: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a study.

    Attributes:
        seeds: how many trainings of each variant.
        inits: evenly spread test init times at most.
        variants: networks to train.
        thresholds: of events, for every band, in its unit; empty: quantiles of the training part.
    """

    seeds: int = SEEDS
    inits: int = INITS
    variants: tuple[Variant, ...] = VARIANTS
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Specification:
    """All that decides what a study comes to, but for the clock.

    Attributes:
        document: as JSON holds it.
        samples: the init times.
        events: of each forecast band.
        measures: which quantity each score takes.
    """

    document: Mapping[str, Any]
    samples: tuple[Sample, ...]
    events: tuple[Events, ...]
    measures: Measures

    @property
    def key(self) -> str:
        """Hash of the document."""
        text = json.dumps(self.document, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


@dataclass(frozen=True, slots=True)
class Learned:
    """What a training of a variant came to.

    Attributes:
        champion: the network in all its wrappers.
        cpu_seconds: of preparation and training; of the fit alone where the frames had been aligned before.
        parameters: numbers that were learned.
    """

    champion: Champion
    cpu_seconds: float
    parameters: int


Trainer = Callable[[Settings, Cube, Path], Learned]


@dataclass(frozen=True, slots=True)
class Watcher:
    """Told how a study goes on."""

    phase: Callable[[str], None] = field(default=lambda _: None)
    scored: Callable[[int, int], None] = field(default=lambda _, __: None)


class _Silent:
    """A tracker that keeps nothing: the study keeps its own record."""

    def parameters(self, values: Mapping[str, Any]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def artifact(self, path: Path, folder: str) -> None: ...


def train_variant(settings: Settings, cube: Cube, folder: Path) -> Learned:
    """The network of a variant, trained as the product's; one that had ended is read from ``folder``."""
    began = time.process_time()
    make_folders(folder)
    learn = _seasons if settings.training.network == Kind.SEASONAL else _chips
    ground, fitted = learn(settings, plan(settings, cube), folder)
    trained = assured(settings, ground, fitted.model)
    spent = _noted(folder / "cpu.json", time.process_time() - began)
    return Learned(trained.champion(settings.forecast.tile), spent, int(fitted.model.count_params()))


def _seasons(settings: Settings, planned: Plan, _folder: Path) -> tuple[Basis, Fitted]:
    """Every pixel's own past; seconds, so nothing of it is kept."""
    return learn_seasons(settings, planned)


def _chips(settings: Settings, planned: Plan, folder: Path) -> tuple[Basis, Fitted]:
    """Single pixels, then chips."""
    material = prepare(settings, planned)
    network, spec = material.card.network, settings.training
    return material, fit(
        network,
        spec if network.recurs else spec.model_copy(update={"epochs": 0}),  # a head has learned all that it can
        material.training,
        material.validation,
        _Silent(),
        checkpoints=Checkpoints(folder),
        statistics=material.card.statistics.of_bands(network.bands_out),
        initial=begin(settings, material, folder / INITIAL, Registry(settings)),
    )


def study(
    settings: Settings,
    wish: Wish,
    *,
    trainer: Trainer = train_variant,
    others: Mapping[str, Predictor] | None = None,
    watcher: Watcher | None = None,
) -> Skill:
    """Trains what is not trained, scores what is not scored, and keeps both in ``study/HASH`` of the workspace.

    Args:
        settings: the product; its cube must be ingested.
        wish: what is compared.
        trainer: makes a network of a variant's settings.
        others: further references, such as a climatology, for the forecast bands.
        watcher: told how it goes on.

    Raises:
        ConfigError: a variant breaks a rule.
        NotEnoughFramesError: no test init time has all its truth.
        StoreError: there is no cube.
    """
    cube, told = open_cube(store_of(settings)), watcher or Watcher()
    specification, known = specify(settings, cube, wish), references(settings) | dict(others or {})
    folder = settings.paths.root / "study" / specification.key
    make_folders(folder / "scores")
    document = {**specification.document, "references": sorted(known)}
    replace_text(folder / SPECIFICATION, json.dumps(document, indent=1) + "\n")  # before anything is scored
    bench = _Bench(settings, cube, specification, folder, told)
    entries = [bench.reference(name, predictor) for name, predictor in known.items()]
    gap = next((one.hidden for one in wish.variants if one.hidden), ())
    entries += [bench.reference(name, known[name], hidden=gap) for name in LESS if gap]
    entries += [bench.variant(one, seed, trainer) for seed in range(wish.seeds) for one in wish.variants]
    skill = Skill(settings.product.title or settings.product.name, specification.key, document, tuple(entries))
    replace_text(folder / RESULTS, json.dumps(skill.to_json(), indent=1, allow_nan=False) + "\n")
    return skill


def specify(settings: Settings, cube: Cube, wish: Wish) -> Specification:
    """What is compared; needs nothing of the test part but its times.

    Raises:
        NotEnoughFramesError: no test init time has all its truth.
    """
    planned = plan(settings, cube)
    tests = thin(complete_tests(planned.split, cube), wish.inits)
    if not tests:
        msg = "a study scores test init times whose truth has come, found none: ingest more or lower samples.horizon"
        raise NotEnoughFramesError(msg)
    bands = forecast_bands(settings)
    events = tuple(_events(settings, cube, planned.statistics, band, wish.thresholds) for band in bands)
    measures, axis = Measures(), cube.layout.axis
    include = {"bands", "grid", "axis", "samples", "motion", "covariates", "training", "forecast"}
    document = {
        "product": settings.product.name,
        "snapshot": cube.snapshot,
        "settings": settings.model_dump(mode="json", include=include),
        "inits": [stamp(axis.valid_time(one.init)) for one in tests],
        "split": planned.split.describe(),
        "variants": [one.to_json() for one in wish.variants],
        "seeds": list(range(wish.seeds)),
        "bands": [{"name": settings.bands[band].name, "units": settings.bands[band].units} for band in bands],
        "events": [asdict(one) for one in events],
        "measures": asdict(measures),
        "block_slots": settings.samples.horizon,
        "cadence_seconds": settings.axis.cadence.total_seconds(),
        "peers": installed(),
        "code": {"version": metadata.version("cubecast"), "digest": code_digest()},
    }
    return Specification(json.loads(json.dumps(document)), tests, events, measures)


def references(settings: Settings) -> dict[str, Predictor]:
    """What a network is measured against.

    Persistence, extrapolation, pysteps where it is installed, a climatology where contexts may reach back a year.
    """
    known, bands = baselines(settings), forecast_bands(settings)
    others: dict[str, Predictor] = {**peers(settings.bands, bands)}
    if settings.samples.max_age * settings.axis.cadence >= YEAR:
        others["climatology"] = OfBands(Climatology(settings.axis.cadence), bands)
    return known | {name: Ladder((other, known["persistence"])) for name, other in others.items()}


def code_digest() -> str:
    """Hash of the modules that decide what is trained and scored."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted([*(root / "models").glob("*.py"), *(root / "pipeline").glob("*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()[:HASH_LENGTH]


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where predictors are scored, one like the other."""

    settings: Settings
    cube: Cube
    specification: Specification
    folder: Path
    watcher: Watcher
    learned: dict[str, Learned] = field(default_factory=dict)

    def variant(self, variant: Variant, seed: int, trainer: Trainer) -> Entry:
        """Trained and scored, unless it was before."""
        if (done := self._kept(variant.name, seed)) is not None:
            return done
        learned = self._trained(variant, seed, trainer)
        settings = variant.settings(self.settings, seed)
        tally, spent = self._met(ladder(settings, learned.champion), variant.hidden, f"{variant.name}, seed {seed}")
        facts = (learned.cpu_seconds, learned.parameters, spent, variant.hidden)
        return self._keep(Entry(variant.name, seed, variant.wholes, tally, *facts))

    def reference(self, name: str, predictor: Predictor, *, hidden: tuple[int, ...] = ()) -> Entry:
        """Scored, unless it was before; ``name`` is what it is called when it sees all."""
        rename = gapped if hidden else str
        if (done := self._kept(rename(name), None)) is not None:
            return done
        tally, spent = self._met(predictor, hidden, rename(name))
        wholes = tuple(rename(one) for one in LESS.get(name, ()))
        return self._keep(Entry(rename(name), None, wholes, tally, forecast_cpu=spent, hidden=hidden))

    def _met(self, predictor: Predictor, hidden: tuple[int, ...], name: str) -> tuple[Tally, float]:
        """What its forecasts met, and processor seconds of one."""
        self.watcher.phase(f"scoring {name}")
        began = time.process_time()
        looking = Blindfold(predictor, hidden) if hidden else predictor
        tally = Tally.joined(list(self._tallies(looking)))
        return tally, (time.process_time() - began) / len(self.specification.samples)

    def _keep(self, entry: Entry) -> Entry:
        replace_text(self._path(entry.name, entry.seed), json.dumps(entry.to_json()) + "\n")
        return entry

    def _tallies(self, predictor: Predictor) -> Iterator[Tally]:
        spec, bands, told = self.settings.samples, list(forecast_bands(self.settings)), covariates_of(self.settings)
        floors = [low for low, _ in valid_ranges([self.settings.bands[band] for band in bands])]
        events, measures = self.specification.events, self.specification.measures
        for done, one in enumerate(self.specification.samples, start=1):
            context = told.attach(read_context(self.cube, one, spec), one.init, spec.horizon)
            truth = read_targets(self.cube, one).values[..., bands]
            pair = Pair(predictor.predict(context, spec.horizon), truth)
            newest = context.validity[0, -1][..., bands]
            yield meet(pair, newest, one.init, events, measures=measures, floors=floors)
            self.watcher.scored(done, len(self.specification.samples))

    def _kept(self, name: str, seed: int | None) -> Entry | None:
        with suppress(FileNotFoundError):
            return Entry.from_json(json.loads(self._path(name, seed).read_text(encoding="utf-8")))
        return None

    def _path(self, name: str, seed: int | None) -> Path:
        plain = "".join(letter if letter.isalnum() else "-" for letter in name)
        return self.folder / "scores" / f"{plain}{'' if seed is None else f'-{seed}'}.json"

    def _trained(self, variant: Variant, seed: int, trainer: Trainer) -> Learned:
        """Variants that differ only in what they are shown when tested share a training."""
        settings = variant.settings(self.settings, seed)
        text = settings.model_dump_json(include={"training", "motion"})
        key = hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]
        if key not in self.learned:
            self.watcher.phase(f"training {variant.name}, seed {seed}")
            self.learned[key] = trainer(settings, self.cube, self.folder / "trainings" / key)
        return self.learned[key]


def _noted(path: Path, spent: float) -> float:
    """What the training cost when it was made, not when it was read again."""
    with suppress(FileNotFoundError):
        return float(json.loads(path.read_text(encoding="utf-8")))
    replace_text(path, f"{spent}\n")
    return spent


def _events(settings: Settings, cube: Cube, slots: Sequence[int], band: int, thresholds: tuple[float, ...]) -> Events:
    """Those that are asked for, or quantiles of what is above the floor in the training part."""
    spec = settings.bands[band]
    below = below_counts(spec.units)
    if thresholds:
        return Events(thresholds, below)
    picks = np.linspace(0, len(slots) - 1, min(SAMPLED_FRAMES, len(slots))).round().astype(int)
    values = cube.read([slots[pick] for pick in picks]).values[..., band]
    known = values[np.isfinite(values)]
    wet = known if spec.floor is None else known[known > spec.floor]
    wet = wet[wet > 0] if spec.period is not None else wet  # of an accumulation mostly nothing falls
    levels = [1 - one for one in QUANTILES] if below else list(QUANTILES)
    found = np.quantile(wet, levels) if wet.size else np.zeros(1)
    return Events(tuple(dict.fromkeys(_rounded(found, float(np.std(wet)) if wet.size else 0.0))), below)


def _rounded(values: NDArray[np.floating], spread: float) -> list[float]:
    """Numbers a reader would choose: rounded to a power of ten of about a tenth of the spread.

    >>> _rounded(np.array([284.93, 271.2, 229.6]), 18.0), _rounded(np.array([0.0312, 0.418]), 0.2)
    ([285.0, 271.0, 230.0], [0.03, 0.42])
    """
    digits = int(np.ceil(-np.log10(spread / 10))) if spread > 0 else 6
    return [float(one) for one in np.round(values.astype(np.float64), digits)]

"""Training chips from aligned samples, at the default settings, against the rate at which the default model trains."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.chips import AlignedFrames, ChipReader, Recipe
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.cube import Cube, open_cube
from pipeline.grid import Window
from pipeline.interest import measure_interest
from pipeline.normalise import measure
from pipeline.samples import Sample, split
from pipeline.store import CubeStore
from tests.benchmarks.bench import Bar, Cost, Figure, cost, in_turn, ratios, report
from tests.benchmarks.product import settings

SLOTS = 500
SIDE = 256  # px of the scenes
BATCH = 4  # chips, the default training's
READS = 50  # batches a measurement
STEPS = 10  # of a training, a measurement
REPEATS = 5
BAR = Bar(3, at_least=True)
EVERYTHING = {"time_of_day": True, "time_of_year": True, "solar_zenith": True}


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured on.

    Attributes:
        product: its settings.
        cube: its cube.
        samples: those of the training.
    """

    product: Settings
    cube: Cube
    samples: tuple[Sample, ...]

    @property
    def area(self) -> Window:
        """The whole grid."""
        height, width = self.cube.layout.grid.shape
        return Window(0, height, 0, width)

    def source(self, *, told: bool = False) -> AlignedFrames:
        """Aligned samples in a folder of their own."""
        statistics = measure(self.cube, range(4), [self.area])
        recipe = Recipe(self.product.samples, self.product.motion, statistics, (0,))
        document: dict[str, Any] = self.product.model_dump() | ({"covariates": EVERYTHING} if told else {})
        folder = self.product.paths.cache / ("told" if told else "plain")
        return AlignedFrames(self.cube, recipe, folder, covariates_of(Settings(**document)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes build/bench/reader.json."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = _figures(options, _bench(Path(folder), options))
    report("reader", figures, options.results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--slots", type=int, default=SLOTS, help="of the cube")
    parser.add_argument("--side", type=int, default=SIDE, help="px of the scenes")
    parser.add_argument("--chip", type=int, default=128, help="px of a chip")
    parser.add_argument("--reads", type=int, default=READS, help="batches a measurement")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a training, a measurement")
    parser.add_argument("--folder", type=Path, help="where scenes, cube and samples are written (1 GB)")
    parser.add_argument("--results", type=Path, help="instead of build/bench")
    return parser.parse_args(arguments)


def _bench(folder: Path, options: argparse.Namespace) -> Bench:
    from pipeline.ingest import ingest
    from tests.benchmarks.scenes import write_scene

    product = settings(folder / "work", folder / "inbox", options.side, bands=1)
    for slot in range(options.slots):
        write_scene(product.scenes.folder, slot, options.side, bands=1)
    ingest(product)
    cube = open_cube(CubeStore(product.paths.cube))
    spec = product.samples.model_copy(update={"max_inits": options.slots})
    return Bench(product, cube, split(cube.observed(), spec, (options.side, options.side), 0).training)


def _figures(options: argparse.Namespace, bench: Bench) -> list[Figure]:
    plain, told = bench.source(), bench.source(told=True)
    preparing = cost(lambda: plain.prepare(bench.samples))
    some = bench.samples[: max(1, len(bench.samples) // 8)]
    with_covariates = cost(lambda: told.prepare(some))
    first = _first_pass(options, bench, plain)
    costs = in_turn(_calls(options, bench, plain, told), options.repeats)
    chips = {name: _rates(options, name, found) for name, found in costs.items()}
    compared = ratios(chips["plain chips"], chips["training"])
    samples = len(bench.samples)
    return [
        Figure(f"an aligned sample of {samples}, made", [preparing.cpu / samples * 1e3], "CPU-ms"),
        Figure("an aligned sample with covariates, made", [with_covariates.cpu / len(some) * 1e3], "CPU-ms"),
        Figure("the first chips, from the disk", [options.reads * BATCH / first.cpu], "chips / CPU-s"),
        Figure("the first chips, from the disk, wall", [options.reads * BATCH / first.wall], "chips / s"),
        *(Figure(name, values, "chips / CPU-s") for name, values in chips.items()),
        Figure("plain chips / training", compared, "", BAR),
    ]


def _first_pass(options: argparse.Namespace, bench: Bench, source: AlignedFrames) -> Cost:
    """Of chips whose samples are not in memory."""
    os.sync()
    for path in source.folder.glob("*/*/*.npy"):
        with path.open("rb") as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    reader = _reader(options, bench, source)
    return cost(lambda: [reader.read(step) for step in range(options.reads)])


def _reader(options: argparse.Namespace, bench: Bench, source: AlignedFrames, *, varied: bool = False) -> ChipReader:
    some = bench.samples if source.covariates is None or not source.covariates.channels else bench.samples[:20]
    ready, size = source.prepare(some), (options.chip, options.chip)
    plain = ChipReader(ready, bench.area, size, BATCH, seed=0)
    if not varied:
        return plain
    interest = measure_interest(ready, bench.area, size, "change", bands=(0,))
    return ChipReader(ready, bench.area, size, BATCH, seed=0, drop_frames=0.1, interest=interest)


def _calls(
    options: argparse.Namespace, bench: Bench, plain: AlignedFrames, told: AlignedFrames
) -> dict[str, Callable[[], Cost]]:
    readers = {
        "plain chips": _reader(options, bench, plain),
        "chips by interest with hidden frames": _reader(options, bench, plain, varied=True),
        "chips with five covariates": _reader(options, bench, told),
    }
    reading = {name: partial(_read, options, reader) for name, reader in readers.items()}
    return {**reading, "training": partial(_train, options, _trainer(options))}


def _read(options: argparse.Namespace, reader: ChipReader) -> Cost:
    first = time.monotonic_ns() % 1_000_000  # other batches each time
    return cost(lambda: [reader.read(first + step) for step in range(options.reads)])


def _trainer(options: argparse.Namespace) -> Callable[[], object]:
    """One step of the default model on random chips; the first, which compiles, is made here."""
    import keras

    from models.losses import MaskedMeanSquaredError
    from models.networks import NetworkSpec, build

    spec = NetworkSpec(context_frames=4, horizon=6, bands_in=1, bands_out=(0,))
    whole: Any = build(spec)
    model: Any = keras.Model(whole.inputs, whole.output["forecast"])
    model.compile(optimizer=keras.optimizers.AdamW(clipnorm=1.0), loss=MaskedMeanSquaredError(), jit_compile=False)
    random = np.random.default_rng(0)
    shape = (BATCH, spec.context_frames, options.chip, options.chip, 1)
    inputs = {
        "frames": random.normal(size=shape).astype(np.float32),
        "validity": np.ones(shape, np.float32),
        "ages": np.tile(np.arange(spec.context_frames, dtype=np.float32)[::-1], (BATCH, 1)),
    }
    targets = random.normal(size=(BATCH, spec.horizon, *shape[2:])).astype(np.float32)
    model.train_on_batch(inputs, targets)
    return lambda: model.train_on_batch(inputs, targets)


def _train(options: argparse.Namespace, step: Callable[[], object]) -> Cost:
    return cost(lambda: [step() for _ in range(options.steps)])


def _rates(options: argparse.Namespace, name: str, costs: Sequence[Cost]) -> list[float]:
    """Chips per CPU-second."""
    batches = options.steps if name == "training" else options.reads
    return [batches * BATCH / one.cpu for one in costs]


if __name__ == "__main__":
    main()

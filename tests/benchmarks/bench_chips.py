"""Training chips out of a cube, 20 slots x 128 x 128 px x 4 bands: through Cube.read, and straight from the arrays."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from tests.benchmarks.bench import Bar, Cost, Figure, answer, cost, in_turn, measured, report
from tests.benchmarks.product import settings

SLOTS = 20
CHIP = 128  # px
SIDE = 2048  # px of the scenes
CHIPS = 24  # a measurement
REPEATS = 5
BARS = {"random": Bar(10, at_least=True), "aligned": Bar(30, at_least=True)}


def run_task(task: dict[str, Any]) -> Cost:
    """Reads chips, the first two not counted."""
    corners = _corners(task)
    read = READERS[task["way"]](Path(task["cube"]), task["slots"])
    for row, column in corners[:2]:
        read(row, column)
    return cost(lambda: [read(row, column) for row, column in corners[2:]])


def _corners(task: dict[str, Any]) -> list[tuple[int, int]]:
    """Upper left corners of chips: anywhere, or on multiples of a chip's side, so that each lies in one chunk."""
    step = CHIP if task["place"] == "aligned" else 1
    places = np.random.default_rng(task["seed"]).integers(0, (task["side"] - CHIP) // step + 1, (task["chips"] + 2, 2))
    return [(int(row) * step, int(column) * step) for row, column in places]


def _through_cube(path: Path, slots: int) -> Callable[[int, int], object]:
    from pipeline.cube import open_cube
    from pipeline.grid import Window
    from pipeline.store import CubeStore

    cube = open_cube(CubeStore(path))

    def read(row: int, column: int) -> object:
        frames = cube.read(range(slots), Window(row, row + CHIP, column, column + CHIP))
        if not frames.validity.all():
            msg = "every pixel of a benchmark's scenes is valid, but a chip has holes"
            raise RuntimeError(msg)
        return frames

    return read


def _from_arrays(path: Path, slots: int) -> Callable[[int, int], object]:
    import zarr

    from pipeline.cube import open_cube
    from pipeline.store import CubeStore

    cube = open_cube(CubeStore(path))
    group = cube.layout.groups[0].name
    data, quality = (cast("zarr.Array", cube.root[f"{group}/{name}"]) for name in ("data", "quality"))

    def read(row: int, column: int) -> object:
        rows, columns = slice(row, row + CHIP), slice(column, column + CHIP)
        return data[:slots, :, rows, columns], quality[:slots, rows, columns]

    return read


READERS = {"Cube.read": _through_cube, "arrays": _from_arrays}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes build/bench/chips.json."""
    options = _options(arguments)
    if options.task:
        answer(run_task(json.loads(options.task)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = _figures(options, _make_cube(Path(folder), options))
    report("chips", figures, options.results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--slots", type=int, default=SLOTS, help="of a chip")
    parser.add_argument("--side", type=int, default=SIDE, help="px of the scenes")
    parser.add_argument("--chips", type=int, default=CHIPS, help="of a measurement")
    parser.add_argument("--folder", type=Path, help="where scenes and cube are written (1 GB)")
    parser.add_argument("--results", type=Path, help="instead of build/bench")
    parser.add_argument("--here", action="store_true", help="in this process: quick and inexact")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _make_cube(folder: Path, options: argparse.Namespace) -> Path:
    from pipeline.ingest import ingest
    from tests.benchmarks.scenes import write_scene

    product = settings(folder / "work", folder / "inbox", options.side)
    for slot in range(options.slots):
        write_scene(product.scenes.folder, slot, options.side)
    ingest(product)
    return product.paths.cube


def _figures(options: argparse.Namespace, cube: Path) -> list[Figure]:
    sizes = {"cube": str(cube), "slots": options.slots, "side": options.side, "chips": options.chips}
    kinds = [(way, place) for place in BARS for way in READERS]
    calls = {
        f"{place} chips, {way}": partial(_cost, options, sizes | {"way": way, "place": place, "seed": seed})
        for seed, (way, place) in enumerate(kinds)
    }
    costs = in_turn(calls, options.repeats)
    bars = [BARS[place] for _, place in kinds]
    figures = [
        Figure(name, [options.chips / one.cpu for one in costs[name]], "chips / CPU-s", bar)
        for name, bar in zip(calls, bars, strict=True)
    ]
    figures += [
        Figure(f"{name}, wall", [options.chips / one.wall for one in costs[name]], "chips / s") for name in calls
    ]
    return figures + [Figure(f"{name}, peak", [one.peak for one in costs[name]], "MiB") for name in calls]


def _cost(options: argparse.Namespace, task: dict[str, Any]) -> Cost:
    return run_task(task) if options.here else measured(__file__, task)


if __name__ == "__main__":
    main()

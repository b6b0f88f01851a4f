"""One scene into the cube: against decoding and writing alone, rioxarray and odc-stac; memory; the second core.

Every run is a process of its own that has imported its libraries and brought in a small scene before. The limit is what
no ingest can avoid: every block read once, and the same chunks packed and written to plain files from memory. Peers run
as their manuals have it, and once more with the cube's chunks and codecs; they hash, check and sync nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bar, Cost, Figure, answer, cost, in_turn, lifetime, measured, ratios, report
from tests.benchmarks.contenders import METHODS
from tests.benchmarks.product import write_scene

SIZES = (4096, 10980)  # px a side; the second is a Sentinel-2 tile
WARM = 2048  # px a side of the scene before: enough windows for every reader


def run_task(task: dict[str, Any]) -> Cost:
    """One run of one method, in a process of its own."""
    os.sched_setaffinity(0, task["cores"])
    warnings.simplefilter("ignore")
    folder, method = Path(task["folder"]), METHODS[task["method"]]
    with tempfile.TemporaryDirectory(dir=folder) as targets:
        if task["cold"]:
            method(Path(task["scene"]), task["side"], Path(targets) / "cold")()
            return lifetime()
        method(Path(task["warm"]), task["warm_side"], Path(targets) / "warm")()
        return cost(method(Path(task["scene"]), task["side"], Path(targets) / "measured"))


def main() -> None:
    """Measures, prints and writes build/bench/ingest.json."""
    options = _options()
    if options.task:
        answer(run_task(json.loads(options.task)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = _figures(options, Path(folder))
    report("ingest", figures, options.results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="px a side; layouts are compared at the first")
    parser.add_argument("--warm", type=int, default=WARM, help="px a side of the scene before")
    parser.add_argument("--layouts", nargs="+", default=("tiled", "bands", "strips", "cog"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--folder", type=Path, help="where scenes and cubes are written (5 GB)")
    parser.add_argument("--results", type=Path, help="instead of build/bench")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args()


def _figures(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Every layout at the first size; the first layout at all sizes, on one core and in a cold process."""
    first, *others = options.sizes
    figures: list[Figure] = []
    for layout in options.layouts:
        figures += _compared(options, folder, layout, first)
    main = options.layouts[0]
    for side in others:
        figures += _compared(options, folder, main, side)
    return figures + _alone(options, folder, main)


def _compared(options: argparse.Namespace, folder: Path, layout: str, side: int) -> list[Figure]:
    """All methods in turn on one scene."""
    task = _task(options, folder, layout, side)
    calls = {name: partial(measured, __file__, task | {"method": name}) for name in options.methods}
    costs = in_turn(calls, options.repeats)
    shutil.rmtree(Path(task["scene"]).parent)
    label = f"{layout} {side}"
    return [*_ratios(label, costs), *_seconds(label, costs), *_memory(label, costs)]


def _task(options: argparse.Namespace, folder: Path, layout: str, side: int) -> dict[str, Any]:
    scene = write_scene(folder / f"{layout}-{side}", 0, side, layout=layout)
    warm = write_scene(folder / f"{layout}-warm", 0, options.warm, layout=layout)
    files = {"scene": str(scene), "side": side, "warm": str(warm), "warm_side": options.warm}
    return files | {"folder": str(folder), "cores": sorted(os.sched_getaffinity(0)), "cold": False}


def _ratios(label: str, costs: dict[str, list[Cost]]) -> list[Figure]:
    cpu = {name: [one.cpu for one in found] for name, found in costs.items()}
    if "ours" not in cpu:
        return []
    figures: list[Figure] = []
    if {"decode", "write"} <= cpu.keys():
        limit = [a + b for a, b in zip(cpu["decode"], cpu["write"], strict=True)]
        figures.append(Figure(f"{label}: ours / limit", ratios(cpu["ours"], limit), "CPU / CPU", Bar(1.25)))
    bars = {"rioxarray": Bar(1.8, at_least=True), "rioxarray alike": None, "odc-stac": Bar(2.5, at_least=True)}
    for peer in bars.keys() & cpu.keys():
        figures.append(Figure(f"{label}: {peer} / ours", ratios(cpu[peer], cpu["ours"]), "CPU / CPU", bars[peer]))
    return figures


def _seconds(label: str, costs: dict[str, list[Cost]]) -> list[Figure]:
    cpu = [Figure(f"{label}: {name}", [one.cpu for one in found], "CPU-s") for name, found in costs.items()]
    return cpu + [Figure(f"{label}: {name}, wall", [one.wall for one in found], "s") for name, found in costs.items()]


def _memory(label: str, costs: dict[str, list[Cost]]) -> list[Figure]:
    figures = [
        Figure(f"{label}: {name}, peak", [one.peak for one in found], "MiB", Bar(400) if name == "ours" else None)
        for name, found in costs.items()
    ]
    children = [one.children for one in costs.get("ours", [])]
    return figures + ([Figure(f"{label}: ours, peaks of its children", children, "MiB")] if children else [])


def _more(options: argparse.Namespace, folder: Path, layout: str) -> list[Figure]:
    """How the ingest does on one core, and in a process that has imported nothing."""
    task = _task(options, folder, layout, options.sizes[0]) | {"method": "ours"}
    ways = {"cores": {}, "one core": {"cores": task["cores"][:1]}, "cold": {"cold": True}}
    costs = in_turn({name: partial(measured, __file__, task | way) for name, way in ways.items()}, options.repeats)
    wall = {name: [one.wall for one in found] for name, found in costs.items()}
    label, cores = f"{layout} {options.sizes[0]}", len(task["cores"])
    return [
        Figure(f"{label}: one core / {cores} cores, wall", ratios(wall["one core"], wall["cores"]), "s / s"),
        Figure(f"{label}: ours, a whole process", [one.cpu for one in costs["cold"]], "CPU-s"),
    ]


def _growth(small: list[Cost], large: list[Cost], sides: tuple[int, int]) -> list[Figure]:
    """Peaks of a large scene over those of a small one."""
    name = f"ours, peak at {sides[1]} / at {sides[0]}"
    return [Figure(name, ratios([one.peak for one in large], [one.peak for one in small]), "MiB / MiB")]


if __name__ == "__main__":
    main()

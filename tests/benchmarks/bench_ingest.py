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
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bar, Cost, Figure, answer, cost, in_turn, lifetime, measured, ratios, report
from tests.benchmarks.contenders import METHODS

LAYOUTS = ("tiled", "bands", "strips", "cog")
SIZES = (4096, 10980)  # px a side; the second is a Sentinel-2 tile
BARS = {
    "ours / limit": Bar(1.25),
    "rioxarray / ours": Bar(1.8, at_least=True),
    "rioxarray alike / ours": None,
    "odc-stac / ours": Bar(2.5, at_least=True),
}
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes build/bench/ingest.json."""
    options = _options(arguments)
    if options.task:
        answer(run_task(json.loads(options.task)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = _figures(options, Path(folder))
    report("ingest", figures, options.results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="px a side; layouts are compared at the first"
    )
    parser.add_argument("--warm", type=int, default=WARM, help="px a side of the scene before")
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--folder", type=Path, help="where scenes and cubes are written (5 GB)")
    parser.add_argument("--results", type=Path, help="instead of build/bench")
    parser.add_argument("--here", action="store_true", help="in this process: quick and inexact")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _figures(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """Every layout at the first size, the first layout at the others too."""
    first, *others = options.sizes
    main, *_ = options.layouts
    places = [(layout, first) for layout in options.layouts] + [(main, side) for side in others]
    costs = {place: _contest(options, folder, *place) for place in places}
    figures = [figure for place, found in costs.items() for figure in _compared(f"{place[0]} {place[1]}", found)]
    for side in others:
        figures += _growth(costs[main, first], costs[main, side], f"peak at {side} / at {first}")
    return figures + _circumstances(options, folder)


def _contest(options: argparse.Namespace, folder: Path, layout: str, side: int) -> dict[str, list[Cost]]:
    """What each method takes for one scene, in turn."""
    task = _task(options, folder, layout, side)
    calls = {name: partial(_cost, options, task | {"method": name}) for name in options.methods}
    costs = in_turn(calls, options.repeats)
    shutil.rmtree(Path(task["scene"]).parent)
    return costs


def _cost(options: argparse.Namespace, task: dict[str, Any]) -> Cost:
    return run_task(task) if options.here else measured(__file__, task)


def _task(options: argparse.Namespace, folder: Path, layout: str, side: int) -> dict[str, Any]:
    from tests.benchmarks.scenes import write_scene

    scene = write_scene(folder / f"{layout}-{side}", 0, side, layout=layout)
    warm = write_scene(folder / f"{layout}-warm", 0, options.warm, layout=layout)
    files = {"scene": str(scene), "side": side, "warm": str(warm), "warm_side": options.warm}
    return files | {"folder": str(folder), "cores": sorted(os.sched_getaffinity(0)), "cold": False}


def _compared(label: str, costs: dict[str, list[Cost]]) -> list[Figure]:
    cpu = {name: [one.cpu for one in found] for name, found in costs.items()}
    figures = [Figure(f"{label}: {name}", quotients, "CPU / CPU", BARS[name]) for name, quotients in _quotients(cpu)]
    figures += [Figure(f"{label}: {name}", values, "CPU-s") for name, values in cpu.items()]
    for name, found in costs.items():
        figures.append(Figure(f"{label}: {name}, wall", [one.wall for one in found], "s"))
        bar = Bar(400) if name == "ours" else None
        figures.append(Figure(f"{label}: {name}, peak", [one.peak for one in found], "MiB", bar))
    children = [one.children for one in costs.get("ours", [])]
    return figures + ([Figure(f"{label}: ours, peaks of its readers", children, "MiB")] if children else [])


def _quotients(cpu: dict[str, list[float]]) -> Iterator[tuple[str, list[float]]]:
    """The ingest against its limit, and its peers against it."""
    if {"ours", "decode", "write"} <= cpu.keys():
        limit = [decoding + writing for decoding, writing in zip(cpu["decode"], cpu["write"], strict=True)]
        yield "ours / limit", ratios(cpu["ours"], limit)
    for peer in ("rioxarray", "rioxarray alike", "odc-stac"):
        if {"ours", peer} <= cpu.keys():
            yield f"{peer} / ours", ratios(cpu[peer], cpu["ours"])


def _growth(small: dict[str, list[Cost]], large: dict[str, list[Cost]], name: str) -> list[Figure]:
    pairs = zip(large.get("ours", []), small.get("ours", []), strict=True)
    quotients = [above.peak / below.peak for above, below in pairs]
    return [Figure(f"ours, {name}", quotients, "MiB / MiB")] if quotients else []


def _circumstances(options: argparse.Namespace, folder: Path) -> list[Figure]:
    """What the second core brings the ingest, and what a process costs that has imported nothing."""
    task = _task(options, folder, options.layouts[0], options.sizes[0]) | {"method": "ours"}
    ways = {"all": {}, "one core": {"cores": task["cores"][:1]}, "cold": {"cold": True}}
    costs = in_turn({name: partial(_cost, options, task | way) for name, way in ways.items()}, options.repeats)
    wall = {name: [one.wall for one in found] for name, found in costs.items()}
    label, cores = f"{options.layouts[0]} {options.sizes[0]}: ours", len(task["cores"])
    return [
        Figure(f"{label}, one core / {cores} cores, wall", ratios(wall["one core"], wall["all"]), "s / s"),
        Figure(f"{label}, a whole process with its start", [one.cpu for one in costs["cold"]], "CPU-s"),
    ]


if __name__ == "__main__":
    main()

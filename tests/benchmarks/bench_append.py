"""One more scene into a long series: against a short one, both in one warm process, in turn.

A commit must not grow with the cube: what a scene costs after 1,000 others is held to what it costs after 50.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.config import Settings
from pipeline.ingest import ingest
from pipeline.ledger import State
from tests.benchmarks.bench import Bar, Cost, Figure, cost, in_turn, ratios, report
from tests.benchmarks.product import settings
from tests.benchmarks.scenes import write_scene

FEW, MANY = 50, 1000  # slots
APPENDS = 21
SIDE = 512  # px
WIDEST = 20  # functions of a profile that are shown


@dataclass(frozen=True, slots=True)
class Series:
    """A product whose inbox is filled scene by scene."""

    product: Settings

    @classmethod
    def of(cls, folder: Path, side: int, slots: int) -> Series:
        """A series of ``slots`` scenes that are in the cube."""
        series = cls(settings(folder / "work", folder / "inbox", side, bands=1))
        for slot in range(slots):
            series.add(slot)
        series.take_in(slots)
        return series

    def add(self, slot: int) -> None:
        """Puts the scene of a slot into the inbox."""
        write_scene(self.product.scenes.folder, slot, self.product.grid.width, bands=1)

    def take_in(self, scenes: int) -> None:
        """Ingests what is new.

        Raises:
            RuntimeError: that is not this many scenes.
        """
        report = ingest(self.product)
        if report.count(State.ACCEPTED) != scenes:
            msg = f"a benchmark's {scenes} scene(s) are accepted, but their ingest says {report.entries[:3]}"
            raise RuntimeError(msg)

    def append(self) -> Cost:
        """What one more scene costs, once it lies in the inbox."""
        self.add(len(list(self.product.scenes.folder.iterdir())))
        return cost(partial(self.take_in, 1))

    def size(self) -> tuple[int, int]:
        """Files of the cube and their bytes."""
        sizes = [path.stat().st_size for path in self.product.paths.cube.rglob("*") if path.is_file()]
        return len(sizes), sum(sizes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes build/bench/append.json."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        few = Series.of(Path(folder) / "few", options.side, options.few)
        many = Series.of(Path(folder) / "many", options.side, options.many)
        if options.profile:
            _profile(few, many, options.appends)
            return
        figures = _figures(options, {f"after {options.few}": few, f"after {options.many}": many})
    report("append", figures, options.results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=FEW, help="slots of the short series")
    parser.add_argument("--many", type=int, default=MANY, help="slots of the long series")
    parser.add_argument("--appends", type=int, default=APPENDS, help="to each series")
    parser.add_argument("--side", type=int, default=SIDE, help="px of a scene")
    parser.add_argument("--folder", type=Path, help="where scenes and cubes are written (1 GB)")
    parser.add_argument("--results", type=Path, help="instead of build/bench")
    parser.add_argument("--profile", action="store_true", help="only show which functions the difference lies in")
    return parser.parse_args(arguments)


def _figures(options: argparse.Namespace, series: dict[str, Series]) -> list[Figure]:
    before = [one.size() for one in series.values()]
    costs = in_turn({name: one.append for name, one in series.items()}, options.appends)
    after = [one.size() for one in series.values()]
    few, many = costs.values()
    quotient = f"an append after {options.many} / after {options.few}"
    figures = [
        Figure(f"{quotient}, CPU", ratios([one.cpu for one in many], [one.cpu for one in few]), "CPU / CPU", Bar(1.15)),
        Figure(f"{quotient}, wall", ratios([one.wall for one in many], [one.wall for one in few]), "s / s", Bar(1.15)),
    ]
    for name, first, last in zip(costs, before, after, strict=True):
        files, size = ((b - a) / options.appends for a, b in zip(first, last, strict=True))
        figures += [
            Figure(f"an append {name}, CPU", [one.cpu * 1000 for one in costs[name]], "CPU-ms"),
            Figure(f"an append {name}, wall", [one.wall * 1000 for one in costs[name]], "ms"),
            Figure(f"an append {name}, files", [files], "files"),
            Figure(f"an append {name}, written", [size / 1024], "KiB"),
        ]
    return figures


def _profile(few: Series, many: Series, appends: int) -> None:
    """Shows what takes longer in the long series, in ms an append, callees included; other threads are not seen."""
    seconds = [_seconds(series, appends) for series in (few, many)]
    growth = {name: seconds[1].get(name, 0.0) - seconds[0].get(name, 0.0) for name in seconds[0] | seconds[1]}
    for name in sorted(growth, key=lambda name: -growth[name])[:WIDEST]:
        sys.stdout.write(f"{growth[name] * 1000:8.2f} ms more than {seconds[0].get(name, 0.0) * 1000:8.2f}  {name}\n")


def _seconds(series: Series, appends: int) -> dict[str, float]:
    """Seconds an append by function."""
    series.append()
    profile = cProfile.Profile()
    for _ in range(appends):
        series.add(len(list(series.product.scenes.folder.iterdir())))
        profile.runcall(series.take_in, 1)
    stats: dict[tuple[str, int, str], tuple] = vars(pstats.Stats(profile))["stats"]
    named = {f"{'/'.join(Path(file).parts[-2:])}:{line} {name}": row[3] for (file, line, name), row in stats.items()}
    return {name: total / appends for name, total in named.items()}


if __name__ == "__main__":
    main()

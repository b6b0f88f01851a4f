"""A forecast of a large scene: what reading, putting together and writing cost beside the network, and the peak."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Settings
from pipeline.cube import open_cube, store_of
from pipeline.forecast import forecast, look, outlet, record
from pipeline.grid import Window
from pipeline.lagrangian import align
from pipeline.normalise import measure
from pipeline.pieces import View
from pipeline.piecework import Answer, Work
from pipeline.predictor import Context
from pipeline.publishing import drafting, publish
from pipeline.raster import read_dn, write_cog
from pipeline.record import ModelRef, RunRecord
from pipeline.rungs import Champion
from pipeline.sheets import quality_sheet, stored_bands, value_sheet
from pipeline.specs import SampleSpec
from pipeline.tiling import Assembly
from tests.benchmarks.bench import Bar, Cost, Figure, answer, cost, in_turn, lifetime, measured, ratios, report
from tests.benchmarks.product import BANDS, settings

SIDE = 1536  # px of the scenes
LARGE = 10_980  # of a Sentinel-2 tile
FRAMES = 4
SHIFT = (2, 3)  # px a slot
REPEATS = 5
PEAK = Bar(2048)
SHARE, WRITING = Bar(0.05), Bar(1.2)


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured on: a product, a network in all its wrappers, and the work of one run."""

    product: Settings
    champion: Champion
    work: Work
    run: RunRecord

    @classmethod
    def at(cls, product: Settings) -> Bench:
        """On the newest scene of a cube."""
        situation = look(product, open_cube(store_of(product)), None)
        champion = untrained(product)
        view = View(situation.cube, situation.sample, product.samples)
        work = Work.begun(product, champion, view, None)
        return cls(product, champion, work, record(product, champion, situation, None))

    @property
    def shape(self) -> tuple[int, int]:
        return self.work.view.shape


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes build/bench/forecast.json."""
    options = _options(arguments)
    if options.task:
        answer(_made(Path(json.loads(options.task)["config"])))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = _parts(options, Path(folder)) + _peaks(options, Path(folder))
    report("forecast", figures, options.results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--side", type=int, default=SIDE, help="px of the scenes whose parts are measured")
    parser.add_argument("--bands", type=int, default=1, help="of those")
    parser.add_argument(
        "--peaks", type=int, nargs="*", default=[1536, 3072], help="px of scenes whose peak is measured"
    )
    parser.add_argument("--large", action="store_true", help=f"also {LARGE} px: half an hour, 40 GB")
    parser.add_argument("--folder", type=Path, help="where scenes, cube and products are written")
    parser.add_argument("--results", type=Path, help="instead of build/bench")
    return parser.parse_args(arguments)


# --- the product ----------------------------------------------------------------------------------


def built(folder: Path, side: int, bands: int) -> Settings:
    """A cube of a few scenes; the configuration is kept beside it."""
    from pipeline.ingest import ingest
    from tests.benchmarks.scenes import write_scene

    product = settings(folder / "work", folder / "inbox", side, bands)
    for slot in range(FRAMES):
        write_scene(product.scenes.folder, slot, side, bands=bands, shift=SHIFT)
        ingest(product)
        shutil.rmtree(product.scenes.folder)
    samples = SampleSpec(context_frames=FRAMES, max_age=FRAMES, horizon=6)
    product = product.model_copy(update={"samples": samples})
    (folder / "product.json").write_text(product.model_dump_json())
    return product


def untrained(product: Settings) -> Champion:
    """The default network with four quantities: it costs what a trained one costs."""
    from models.networks import NetworkSpec, build
    from models.prediction import Card, Network

    cube = open_cube(store_of(product))
    bands = tuple(range(len(product.bands)))
    spec = NetworkSpec(FRAMES, product.samples.horizon, len(bands), bands)
    statistics = measure(cube, [0], [Window(0, 256, 0, 256)])
    card = Card(spec, statistics, product.samples, product.motion, tuple(band.name for band in product.bands))
    return Network(build(spec), card, ModelRef("bench", "1", "network")).champion()


# --- its parts ------------------------------------------------------------------------------------


def _parts(options: argparse.Namespace, folder: Path) -> list[Figure]:
    bench = Bench.at(built(folder / "parts", options.side, options.bands))
    said = [bench.work.answer(piece) for piece in bench.work.pieces]
    aligned = [_aligned(bench, one) for one in said]
    calls: dict[str, Callable[[], Cost]] = {
        "forward": lambda: cost(lambda: [bench.champion.still.predict(one, 6) for one in aligned]),
        "reading": lambda: cost(lambda: [bench.work.view.context(piece.outer) for piece in bench.work.pieces]),
        "together": lambda: cost(partial(_together, bench, said)),
        "writing": lambda: cost(partial(_written, bench, said)),
        "driver": _driver(bench, said, folder),
        "whole": lambda: cost(lambda: [bench.work.answer(piece) for piece in bench.work.pieces]),
    }
    costs = {name: [one.cpu for one in found] for name, found in in_turn(calls, options.repeats).items()}
    pixels = prod(bench.shape)
    seen = sum(prod(piece.outer.shape) for piece in bench.work.pieces) / pixels
    share = {name: ratios(costs[name], costs["forward"]) for name in ("reading", "together")}
    return [
        Figure(
            "forward passes, a megapixel that is published", [1e6 * one / pixels for one in costs["forward"]], "CPU-s"
        ),
        Figure("the ladder's answers, a megapixel", [1e6 * one / pixels for one in costs["whole"]], "CPU-s"),
        Figure("reading the context / forward passes", share["reading"], "", SHARE),
        Figure("putting pieces together / forward passes", share["together"], "", SHARE),
        Figure(
            "writing / GDAL's COG driver on the same arrays", ratios(costs["writing"], costs["driver"]), "", WRITING
        ),
        Figure(f"pixels seen / published, pieces of {bench.work.pieces[0].window.shape[0]} px", [seen], ""),
    ]


def _aligned(bench: Bench, one: Answer) -> Context:
    assert bench.work.trajectories is not None
    along = bench.work.trajectories.within(one.piece.outer)
    return align(bench.work.view.context(one.piece.outer), (along,))


def _together(bench: Bench, said: Sequence[Answer]) -> Assembly:
    canvas = Assembly(bench.shape)
    for one in said:
        canvas.put(one.said, one.piece.window, one.piece.outer)
    return canvas


def _written(bench: Bench, said: Sequence[Answer]) -> None:
    """From pieces to a published run, read back and hashed."""
    out = outlet(bench.product)
    shutil.rmtree(out.root, ignore_errors=True)
    with drafting(bench.run, out) as draft:
        for one in said:
            draft.put(one.said, one.piece.window, one.piece.outer)
        publish(draft, bench.run, out, {})


def _driver(bench: Bench, said: Sequence[Answer], folder: Path) -> Callable[[], Cost]:
    """GDAL's driver alone, on arrays in memory."""
    whole, out = _together(bench, said).forecast, outlet(bench.product)
    stored = stored_bands(out.bands, out.resolution)
    leads = range(len(whole.source[0]))
    sheets = [value_sheet(whole, lead, stored) for lead in leads]
    sheets += [quality_sheet(whole, lead, bench.run.cadence) for lead in leads]

    def write() -> None:
        for sheet in sheets:
            options: dict[str, Any] = {"nodata": sheet.nodata, "overviews": sheet.overviews}
            write_cog(folder / "alone.tif", sheet.data, out.grid, sheet.bands, **options)

    return lambda: cost(write)


# --- its peak -------------------------------------------------------------------------------------


def _peaks(options: argparse.Namespace, folder: Path) -> list[Figure]:
    sides = [*options.peaks, *([LARGE] if options.large else [])]
    figures = []
    for side in sides:
        place = folder / f"{side}"
        built(place, side, len(BANDS))
        found = measured(__file__, {"config": str(place / "product.json")})
        figures += [
            Figure(f"{side} px, {len(BANDS)} bands, 6 leads, 4 quantities: peak", [found.peak], "MiB", PEAK),
            Figure(f"{side} px: the whole run, imports included", [found.cpu], "CPU-s"),
        ]
        shutil.rmtree(place)
    return figures


def _made(config: Path) -> Cost:
    """In a process of its own: from the cube to a published run."""
    product = Settings.model_validate_json(config.read_text())
    run = forecast(product, untrained(product))
    assert np.isfinite(read_dn(run / "lead-0005m-quality.tif")[0]).any()
    return lifetime()


if __name__ == "__main__":
    main()

"""The product that is measured: square uint16 scenes, one every five minutes, on the grid of a Sentinel-2 tile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.config import Settings, parse

BANDS = ("blue", "green", "red", "nir")
CRS = "EPSG:32633"
PIXEL, LEFT, TOP = 10.0, 499_980.0, 5_100_000.0  # m, those of a Sentinel-2 tile
ORIGIN = datetime(2024, 6, 1, 5, tzinfo=UTC)
CADENCE = timedelta(minutes=5)


def settings(root: Path, inbox: Path, side: int, bands: int = len(BANDS)) -> Settings:
    """A product of square uint16 scenes, its workspace at ``root``."""
    band = {"dtype": "uint16", "nodata": 0, "scale": 0.0001, "units": "1"}
    document = {
        "workspace": root,
        "product": {"name": "bench"},
        "scenes": {"folder": inbox, "pattern": "scene_{time}.tif"},
        "bands": [band | {"name": name, "index": index + 1} for index, name in enumerate(BANDS[:bands])],
        "grid": {"crs": CRS, "transform": (PIXEL, 0, LEFT, 0, -PIXEL, TOP), "width": side, "height": side},
        "axis": {"origin": ORIGIN, "cadence": CADENCE},
    }
    return parse(document, source="benchmark", folder=root)

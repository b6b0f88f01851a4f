"""Ways to bring one GeoTIFF onto the disk as Zarr: each makes ready, and returns what is then measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

ROWS, COLUMNS = 512, 2048  # px that the limit reads and writes at a time: whole blocks and whole chunks
PEER_CHUNK = 1024  # px
SPATIAL: Any = {"x": PEER_CHUNK, "y": PEER_CHUNK}
ITEM_EXTENSIONS = ("projection/v2.0.0", "raster/v1.1.0", "eo/v1.1.0")


def ours(scene: Path, side: int, target: Path) -> Callable[[], None]:
    """The ingest, from the inbox to a durable snapshot."""
    from pipeline.ingest import ingest
    from pipeline.ledger import State
    from tests.benchmarks.product import settings

    product = settings(target, scene.parent, side)

    def work() -> None:
        done = ingest(product)
        if done.count(State.ACCEPTED) != 1:
            msg = f"a benchmark's scene is accepted, but its ingest says {done.entries}"
            raise RuntimeError(msg)

    return work


def decode(scene: Path, side: int, target: Path) -> Callable[[], None]:
    """Every block once, into memory that is used again."""
    import numpy as np
    import rasterio

    buffer = np.empty((4, ROWS, side), np.uint16)

    def work() -> None:
        with rasterio.open(scene) as file:
            for row in range(0, side, ROWS):
                rows = min(ROWS, side - row)
                file.read(out=buffer[:, :rows], window=((row, row + rows), (0, side)))

    return work


def write(scene: Path, side: int, target: Path) -> Callable[[], None]:
    """The cube's own arrays, from memory to plain Zarr."""
    import numpy as np
    import rasterio
    import zarr

    from pipeline import cube, schema
    from pipeline.chunkio import tune
    from tests.benchmarks.product import settings

    with rasterio.open(scene) as file:
        pixels = file.read()
    layout = schema.Layout.of(settings(target, scene.parent, side))
    name = layout.groups[0].name
    quality = np.zeros((side, side), np.uint8)
    quality[:8, :8] = 1  # a chunk that holds nothing but its fill is not written

    tune()  # as the ingest does
    root = zarr.create_group(target)
    schema.create(root, layout)
    cube.grow(root, layout, 1)
    data, flags = (cast("zarr.Array", root[f"{name}/{array}"]) for array in ("data", "quality"))

    def put(row: int, column: int) -> None:
        rows, columns = slice(row, min(row + ROWS, side)), slice(column, min(column + COLUMNS, side))
        data[0, :, rows, columns] = pixels[:, rows, columns]
        flags[0, rows, columns] = quality[rows, columns]

    def work() -> None:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(put, *zip(*product(range(0, side, ROWS), range(0, side, COLUMNS)), strict=True)))
        os.sync()

    return work


def rioxarray(scene: Path, side: int, target: Path, *, alike: bool = False) -> Callable[[], None]:
    """``open_rasterio`` and ``to_zarr``; ``alike``: with the cube's chunks and codecs."""
    from rioxarray import open_rasterio

    encoding = {"data": _packing(scene, side, target)} if alike else None

    def work() -> None:
        opened: Any = open_rasterio(scene, chunks=SPATIAL)
        opened.rename("data").to_dataset().to_zarr(target, encoding=encoding, consolidated=False)
        os.sync()

    return work


def _packing(scene: Path, side: int, target: Path) -> dict[str, Any]:
    import zarr
    from zarr.storage import MemoryStore

    from pipeline import schema
    from tests.benchmarks.product import settings

    layout = schema.Layout.of(settings(target, scene.parent, side))
    root = zarr.create_group(MemoryStore())
    schema.create(root, layout)
    array: Any = root[f"{layout.groups[0].name}/data"]
    return {"chunks": array.chunks[1:], "compressors": array.compressors}


def odc_stac(scene: Path, side: int, target: Path) -> Callable[[], None]:
    """``odc.stac.load`` of an item that describes the file, and ``to_zarr``."""
    from odc.stac import load

    from tests.benchmarks.product import BANDS

    item = _item(scene, side)

    def work() -> None:
        load([item], bands=list(BANDS), chunks=SPATIAL).to_zarr(target, consolidated=False)
        os.sync()

    return work


def _item(scene: Path, side: int) -> Any:
    from pystac import Asset, Item

    from tests.benchmarks.product import BANDS, CRS, LEFT, ORIGIN, PIXEL, TOP

    place = {"proj:code": CRS, "proj:shape": [side, side], "proj:transform": [PIXEL, 0, LEFT, 0, -PIXEL, TOP]}
    schemas = [f"https://stac-extensions.github.io/{name}/schema.json" for name in ITEM_EXTENSIONS]
    item = Item("scene", None, None, ORIGIN, place, stac_extensions=schemas)
    bands = {"raster:bands": [{"data_type": "uint16", "nodata": 0}] * 4, "eo:bands": [{"name": name} for name in BANDS]}
    media = "image/tiff; application=geotiff"
    item.add_asset("pixels", Asset(str(scene), media_type=media, roles=["data"], extra_fields=bands))
    return item


METHODS: dict[str, Callable[[Path, int, Path], Callable[[], None]]] = {
    "ours": ours,
    "decode": decode,
    "write": write,
    "rioxarray": rioxarray,
    "rioxarray alike": partial(rioxarray, alike=True),
    "odc-stac": odc_stac,
}

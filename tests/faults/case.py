"""One hostile file: how it is made, and what must become of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

CRS = "EPSG:32633"
TRANSFORM = Affine(10, 0, 5e5, 0, -10, 5e6)
SHAPE = (40, 48)
UNSEEN = "unseen"
ASIDE = ".aside"  # ending of files that are moved into their place


@dataclass(frozen=True, slots=True)
class Product:
    """One inbox of the corpus: bands of one type; no right scene has a DN outside 1 to 200."""

    dtype: str
    bands: int
    nodata: float

    def dn(self, *seed: int, shape: tuple[int, int] = SHAPE) -> NDArray:
        """What a right scene holds: ``(band, y, x)``, no two seeds alike."""
        values = np.random.default_rng(seed).integers(1, 201, (self.bands, *shape))
        return values.astype(self.dtype)


PRODUCTS = {
    "pairs": Product("uint16", 2, 65535),
    "floats": Product("float32", 1, -9999),
    "bytes": Product("uint8", 1, 255),
}


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a case puts its file, and what lies around it.

    Attributes:
        path: the file to make, in the inbox.
        product: what the inbox holds.
        dn: what a right scene of this time holds: ``(band, y, x)``.
        canary: a folder beyond the inbox with a right ``scene.tif``, that nobody may look into.
        url: address of a server that nobody may call.
    """

    path: Path
    product: Product
    dn: NDArray
    canary: Path
    url: str


Make = Callable[[Spot], Any]
Pixels = Callable[[Spot], NDArray]


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile file.

    Attributes:
        name: what is wrong with it.
        make: writes it.
        states: what may become of it: states of the ledger, or ``unseen``.
        reasons: codes that the ledger may give; empty where there is none.
        product: the inbox that it lies in.
        file: its name; ``{time}`` stands for a time of its own.
        twin: another case whose time it shares.
        pixels: DN that the cube must hold where it is accepted, the product's nodata where it must hold nothing.
        slack: how far a DN may be off (lossy compression).
        live: goes on writing, in a thread, until it is told to stop; then it leaves a right scene.
        note: what deserves to be known.
    """

    name: str
    make: Make
    states: frozenset[str]
    reasons: frozenset[str] = frozenset()
    product: str = "pairs"
    file: str = "scene_{time}_{name}.tif"
    twin: str = ""
    pixels: Pixels = lambda spot: spot.dn
    slack: float = 0
    live: Callable[[Spot, Event], None] | None = None
    note: str = ""


def accepted(name: str, make: Make, **options: Any) -> Case:
    """Enters the cube, with the right pixels."""
    return Case(name, make, frozenset({"accepted"}), **options)


def refused(name: str, make: Make, *reasons: str, **options: Any) -> Case:
    """Is put into quarantine."""
    return Case(name, make, frozenset({"quarantined"}), frozenset(reasons), **options)


def waiting(name: str, make: Make, *reasons: str, **options: Any) -> Case:
    """Is looked at again at every ingest."""
    return Case(name, make, frozenset({"pending"}), frozenset(reasons), **options)


def kept_out(name: str, make: Make, *reasons: str, **options: Any) -> Case:
    """Either of both: whether it is broken or not yet whole cannot be told."""
    return Case(name, make, frozenset({"quarantined", "pending"}), frozenset(reasons), **options)


def unseen(name: str, make: Make, **options: Any) -> Case:
    """Is no file of the inbox."""
    return Case(name, make, frozenset({UNSEEN}), **options)


def write(spot: Spot, dn: NDArray | None = None, *, path: Path | None = None, **profile: Any) -> Path:
    """Writes a right scene; ``profile`` replaces what is right, ``tags`` in it are the file's."""
    data = spot.dn if dn is None else dn
    tags = profile.pop("tags", {})
    own = {
        "driver": "GTiff",
        "count": data.shape[0],
        "height": data.shape[1],
        "width": data.shape[2],
        "dtype": data.dtype,
        "crs": CRS,
        "transform": TRANSFORM,
        "nodata": spot.product.nodata,
        "blockysize": 8,
        "compress": "deflate",
    }
    path = path or spot.path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **own | profile) as file:
            file.update_tags(**tags)  # before the pixels, or the header would be written again behind them
            file.write(data)
    return path


def written(**profile: Any) -> Make:
    """A scene whose profile differs."""
    return lambda spot: write(spot, **profile)


def holding(change: Pixels, **profile: Any) -> Make:
    """A scene whose DN differ."""
    return lambda spot: write(spot, change(spot), **profile)


def raw(content: Callable[[Spot], bytes] | bytes) -> Make:
    """A file of these bytes."""
    return lambda spot: spot.path.write_bytes(content if isinstance(content, bytes) else content(spot))

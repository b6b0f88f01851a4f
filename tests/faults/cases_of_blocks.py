"""Hostile files by their pixels: cut files, broken blocks, compressions, values that cannot be true."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from tests.faults import rawtiff as tif
from tests.faults.case import Case, Make, Spot, accepted, holding, raw, refused, write, written
from tests.faults.cases_of_headers import lying
from tests.faults.rawtiff import short


def _cut(left: float) -> Make:
    """The first bytes of a right scene: a part of it, or all but some."""

    def make(spot: Spot) -> None:
        whole = write(spot).read_bytes()
        spot.path.write_bytes(whole[: int(left if left < 0 else left * len(whole))])

    return make


CUTS = {"ifd": 0.01, "tags": 0.05, "first-block": 0.15, "middle": 0.5, "last-block": 0.97, "last-byte": -1}
CUT = [refused(f"cut-in-the-{where}", _cut(left), "unreadable", "wrong-crs") for where, left in CUTS.items()] + [
    refused("cut-before-its-ifd", raw(lambda spot: tif.scene_file(spot.dn)[:-60]), "unreadable", "wrong-crs"),
]


def _overwritten(*, copies: int = 1, **profile: Any) -> Make:
    """A scene with noise where its third block begins; each band stands there so many times."""

    def make(spot: Spot) -> None:
        data = bytearray(write(spot, np.repeat(spot.dn, copies, 0), **profile).read_bytes())
        with rasterio.open(spot.path) as file:
            at = int(file.get_tag_item("BLOCK_OFFSET_0_2", "TIFF", bidx=1))
        data[at : at + 64] = np.random.default_rng(1).bytes(64)
        spot.path.write_bytes(data)

    return make


def _noise(size: int) -> bytes:
    return np.random.default_rng(2).bytes(size)


def _swollen(spot: Spot) -> bytes:
    """The deflated strip goes on for a gigabyte behind the last pixel."""
    packer = zlib.compressobj(9)
    strip = packer.compress(tif.interleaved(spot.dn)) + packer.flush(zlib.Z_FULL_FLUSH)
    endless = tif.zeros_deflated(1024)[2:]  # without a header of its own
    return tif.scene_file(spot.dn, {tif.COMPRESSION: short(tif.DEFLATE)}, block=strip + endless)


def _deflated(changed: tif.Tags) -> Make:
    own = {tif.COMPRESSION: short(tif.DEFLATE)} | dict(changed)
    return raw(lambda spot: tif.scene_file(spot.dn, own, block=zlib.compress(tif.interleaved(spot.dn))))


BROKEN = [
    refused("noise-in-deflate", _overwritten(), "unreadable"),
    refused("noise-in-zstd", _overwritten(compress="zstd"), "unreadable"),
    refused("noise-in-lzma", _overwritten(compress="lzma"), "unreadable"),
    refused("noise-in-lerc", _overwritten(compress="lerc"), "unreadable"),
    refused(
        "noise-in-webp",
        _overwritten(copies=3, compress="webp", webp_lossless=True, interleave="pixel"),
        "unreadable",
        product="bytes",
    ),
    refused("noise-in-jpeg", _overwritten(compress="jpeg", nodata=None), "unreadable", product="bytes"),
    refused("lzw-of-noise", lying({tif.COMPRESSION: short(tif.LZW)}, _noise(4000)), "unreadable"),
    refused("deflate-of-noise", lying({tif.COMPRESSION: short(tif.DEFLATE)}, _noise(4000)), "unreadable"),
    refused("jpeg-of-noise", lying({tif.COMPRESSION: short(tif.JPEG)}, _noise(4000)), "unreadable", product="bytes"),
    refused("old-jpeg", lying({tif.COMPRESSION: short(tif.OLD_JPEG)}, _noise(4000)), "unreadable", product="bytes"),
    refused("predictor-of-floats-on-integers", _deflated({tif.PREDICTOR: short(3)}), "unreadable"),
    refused("predictor-99", _deflated({tif.PREDICTOR: short(99)}), "unreadable"),
    refused("predictor-never-applied", _deflated({tif.PREDICTOR: short(2)}), "out-of-range"),
    accepted("swollen-block", raw(_swollen)),
]


def _with_overviews(spot: Spot) -> None:
    with rasterio.open(write(spot), "r+") as file:
        file.build_overviews([2, 4])


def _pages(spot: Spot) -> None:
    write(spot)
    write(spot, spot.dn[:, ::-1], append_subdataset=True)


def _hidden_half(spot: Spot) -> None:
    """A mask inside the file hides the upper half."""
    visible = np.full(spot.dn.shape[1:], 255, np.uint8)
    visible[:20] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write(spot, nodata=None)
        with rasterio.open(spot.path, "r+") as file:
            file.write_mask(visible)


def _upper_half_missing(spot: Spot) -> NDArray:
    result = spot.dn.copy()
    result[:, :20] = spot.product.nodata
    return result


def _smooth(spot: Spot) -> NDArray:
    return np.broadcast_to(np.linspace(40, 160, spot.dn.shape[2]).astype(spot.dn.dtype), spot.dn.shape)


TILED = {"tiled": True, "blockxsize": 16, "blockysize": 16}
GOOD = [
    accepted("plain", write),
    accepted("plain-floats", write, product="floats"),
    accepted("plain-bytes", write, product="bytes"),
    accepted("tiled", written(**TILED)),
    accepted("tiles-larger-than-the-scene", written(tiled=True, blockxsize=64, blockysize=64)),
    accepted("planes", written(interleave="band")),
    accepted("uncompressed", written(compress=None)),
    accepted("raw", raw(lambda spot: tif.scene_file(spot.dn))),
    accepted("big-endian", written(endianness="BIG")),
    accepted("big-tiff", written(bigtiff="YES")),
    accepted("zstd", written(compress="zstd", predictor=2)),
    accepted("lzw", written(compress="lzw", predictor=2)),
    accepted("lzma", written(compress="lzma")),
    accepted("lerc", written(compress="lerc")),
    accepted("lerc-zstd", written(compress="lerc_zstd", **TILED)),
    accepted("packbits", written(compress="packbits")),
    accepted(
        "webp",
        holding(lambda spot: np.repeat(spot.dn, 3, 0), compress="webp", webp_lossless=True, interleave="pixel"),
        product="bytes",
    ),
    accepted("jpeg", holding(_smooth, compress="jpeg", jpeg_quality=95), product="bytes", pixels=_smooth, slack=4),
    accepted("predictor-of-floats", written(predictor=3), product="floats"),
    accepted("overviews", _with_overviews),
    accepted("pages", _pages),
    accepted("cloud-optimised", lambda spot: write(spot, driver="COG")),
    accepted("mask-inside", _hidden_half, pixels=_upper_half_missing),
]


def _with(value: float, rows: slice, columns: slice = slice(None)) -> partial[NDArray]:
    return partial(_rectangle, value=value, rows=rows, columns=columns)


def _rectangle(spot: Spot, *, value: float, rows: slice, columns: slice) -> NDArray:
    result = spot.dn.copy()
    result[:, rows, columns] = spot.product.nodata if value is None else value
    return result


def _all(value: float) -> partial[NDArray]:
    return _with(value, slice(None))


MIDDLE = slice(8, 24)
CORNER = slice(0, 32), slice(16, 48)  # two cells of 16 px each way, at least, tell a lost block
NAN, INF = float("nan"), float("inf")
PIXELS = [
    refused("all-nodata", holding(_all(65535)), "all-nodata"),
    refused("all-nan", holding(_all(NAN)), "all-nodata", product="floats"),
    refused("all-infinite", holding(_all(INF)), "all-nodata", "out-of-range", product="floats"),
    refused("all-zero", holding(_all(0)), "all-zero"),
    refused("all-zero-without-nodata", holding(_all(0), nodata=None), "all-zero"),
    refused("out-of-range", holding(_all(60_000)), "out-of-range"),
    refused("mostly-out-of-range", holding(_with(60_000, slice(0, 38))), "out-of-range"),
    accepted("rectangle-of-zeros", holding(_with(0, *CORNER)), pixels=_with(65535, *CORNER)),
    accepted("strip-of-zeros", holding(_with(0, MIDDLE)), pixels=_with(65535, MIDDLE)),
    accepted("some-nan", holding(_with(NAN, MIDDLE)), product="floats", pixels=_with(-9999, MIDDLE)),
    accepted("some-infinite", holding(_with(INF, MIDDLE)), product="floats", pixels=_with(-9999, MIDDLE)),
    accepted("some-vast", holding(_with(3e38, MIDDLE)), product="floats", pixels=_with(-9999, MIDDLE)),
]


def _by_rank(*, best: bool) -> Make:
    """One of two versions of a scene: the one whose hash is higher, or the other."""

    def make(spot: Spot) -> None:
        versions = [tif.scene_file(spot.dn), tif.scene_file(spot.dn[:, ::-1])]
        spot.path.write_bytes(sorted(versions, key=lambda content: sha256(content).digest())[best])

    return make


def _winner(spot: Spot) -> NDArray:
    return max((spot.dn, spot.dn[:, ::-1]), key=lambda dn: sha256(tif.scene_file(dn)).digest())


SAME = [
    accepted("first-of-two", write),
    replace(
        accepted("second-of-two", write, twin="first-of-two"),
        states=frozenset({"duplicate"}),
        reasons=frozenset({"same-bytes"}),
    ),
    accepted("best-version", _by_rank(best=True), pixels=_winner),
    replace(
        accepted("other-version", _by_rank(best=False), twin="best-version"),
        states=frozenset({"superseded"}),
        reasons=frozenset({"older-revision"}),
    ),
]

OF_BLOCKS: list[Case] = [*CUT, *BROKEN, *GOOD, *PIXELS, *SAME]

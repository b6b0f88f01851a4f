"""Hostile files by what their headers say: bands, place, structure of the TIFF, sizes, tags."""

from __future__ import annotations

import math

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint

from tests.faults import rawtiff as tif
from tests.faults.case import TRANSFORM, Case, Make, Spot, accepted, holding, kept_out, raw, refused, write, written
from tests.faults.rawtiff import Kind, Tag, Tags, double, long, short, text


def lying(changed: Tags, block: bytes | None = None) -> Make:
    """A scene of one strip with tags that differ from the right ones."""
    return raw(lambda spot: tif.scene_file(spot.dn, changed, block=block))


BANDS = [
    refused("wrong-dtype", holding(lambda spot: spot.dn.astype("int16"), nodata=None), "wrong-dtype"),
    refused("floats", holding(lambda spot: spot.dn.astype("float32")), "wrong-dtype"),
    refused("doubles-in-floats", holding(lambda spot: spot.dn.astype("float64")), "wrong-dtype", product="floats"),
    refused("complex", holding(lambda spot: spot.dn.astype("complex64"), nodata=None), "wrong-dtype"),
    refused("complex-integers", written(dtype="complex_int16", nodata=None), "wrong-dtype"),
    refused("bits-64", holding(lambda spot: spot.dn.astype("uint64"), nodata=None), "wrong-dtype"),
    accepted("bits-12", written(nbits=12, nodata=None)),
    refused("bits-1", holding(lambda spot: spot.dn.astype("uint8") % 2, nbits=1, nodata=None), "wrong-dtype"),
    accepted("bits-24-of-a-float", written(nbits=24), product="floats"),
    refused("bits-0", lying({tif.BITS: short(0, 0)}), "unreadable", "wrong-dtype"),
    refused("bits-65535", lying({tif.BITS: short(65535, 65535)}), "unreadable", "wrong-dtype"),
    refused("bits-that-differ", lying({tif.BITS: short(16, 8)}), "unreadable", "wrong-dtype"),
    refused("unknown-format", lying({tif.SAMPLE_FORMAT: short(9, 9)}), "unreadable", "wrong-dtype"),
    refused("one-band", holding(lambda spot: spot.dn[:1]), "missing-band"),
    accepted("third-band", holding(lambda spot: np.concatenate([spot.dn, spot.dn[:1] * 0 + 5]))),
    accepted("alpha-band", holding(lambda spot: np.concatenate([spot.dn, spot.dn[:1] * 0]), alpha="YES")),
    refused("no-samples", lying({tif.SAMPLES: short(0)}), "unreadable", "missing-band"),
    accepted("palette", written(photometric="PALETTE", nodata=255), product="bytes"),
    accepted("white-is-zero", written(photometric="MINISWHITE"), product="bytes"),
    accepted("own-scale-and-offset", lambda spot: _scaled(write(spot))),
]


def _scaled(path: object) -> None:
    import rasterio

    with rasterio.open(path, "r+") as file:
        file.scales = (0.5,) * file.count
        file.offsets = (7,) * file.count


def _moved(columns: float, rows: float) -> Affine:
    return TRANSFORM @ Affine.translation(columns, rows)


def _shifted(spot: Spot, rows: int, columns: int) -> NDArray:
    """What stays in the grid of a scene that lies so many pixels further down and right."""
    result = np.full_like(spot.dn, spot.product.nodata)
    result[:, rows:, columns:] = spot.dn[:, : spot.dn.shape[1] - rows, : spot.dn.shape[2] - columns]
    return result


def _larger(spot: Spot) -> NDArray:
    return np.pad(spot.dn, ((0, 0), (3, 5), (7, 2)), constant_values=99)


CORNERS = [GroundControlPoint(y, x, 5e5 + 10 * x, 5e6 - 10 * y) for y, x in ((0, 0), (0, 48), (40, 0), (40, 48))]
NOWHERE: Tags = {tif.PIXEL_SCALE: None, tif.TIEPOINTS: None, tif.GEO_KEYS: None}
CAMERA: Tags = NOWHERE | {tif.RPC: double(*[1.0] * 92)}

PLACE = [
    refused("other-zone", written(crs="EPSG:32634"), "wrong-crs"),
    refused("degrees", written(crs="EPSG:4326"), "wrong-crs"),
    refused("no-crs", written(crs=None), "wrong-crs"),
    refused("no-place-at-all", written(crs=None, transform=None), "wrong-crs", "off-grid"),
    refused("no-transform", written(transform=None), "off-grid"),
    refused("ground-points", written(transform=None, gcps=CORNERS), "wrong-crs", "off-grid"),
    refused("camera-model", lying(CAMERA), "wrong-crs", "off-grid"),
    refused(
        "unknown-crs", lying({tif.GEO_KEYS: short(1, 1, 0, 2, *(1024, 0, 1, 1), *(3072, 0, 1, 31999))}), "wrong-crs"
    ),
    refused("half-a-crs", lying({tif.GEO_KEYS: short(1, 1, 0, 1, *(1024, 0, 1, 1))}), "wrong-crs"),
    refused("geo-keys-of-noise", lying({tif.GEO_KEYS: short(*range(40))}), "wrong-crs"),
    refused("too-many-geo-keys", lying({tif.GEO_KEYS: short(1, 1, 0, 65535, *(1024, 0, 1, 1))}), "wrong-crs"),
    refused(
        "geo-keys-beyond-the-file",
        lying({tif.GEO_KEYS: Tag(Kind.SHORT, (1,) * 16, at=1 << 30)}),
        "wrong-crs",
        "unreadable",
    ),
    refused("rotated", written(transform=TRANSFORM @ Affine.rotation(30)), "off-grid"),
    refused("south-up", written(transform=Affine(10, 0, 5e5, 0, 10, 4999600)), "off-grid"),
    refused("mirrored", written(transform=Affine(-10, 0, 500480, 0, -10, 5e6)), "off-grid"),
    refused("transposed", written(transform=Affine(0, 10, 5e5, -10, 0, 5e6)), "off-grid"),
    refused("half-a-pixel-off", written(transform=_moved(0.5, 0.5)), "off-grid"),
    refused("other-pixel-size", written(transform=Affine(20, 0, 5e5, 0, -20, 5e6)), "off-grid"),
    refused("no-pixel-size", lying({tif.PIXEL_SCALE: double(0, 0, 0)}), "off-grid", "wrong-crs"),
    refused("beside-the-grid", written(transform=_moved(1000, 0)), "outside"),
    refused("touching-the-grid", written(transform=_moved(48, 0)), "outside"),
    accepted("partly-outside", written(transform=_moved(10, 6)), pixels=lambda spot: _shifted(spot, 6, 10)),
    accepted("larger-than-the-grid", holding(_larger, transform=_moved(-7, -3))),
    accepted("pixel-is-point", written(tags={"AREA_OR_POINT": "Point"})),
    refused("nan-transform", lying({tif.PIXEL_SCALE: double(math.nan, 10, 0)}), "off-grid"),
    refused("infinite-transform", lying({tif.TIEPOINTS: double(0, 0, 0, math.inf, 5e6, 0)}), "off-grid"),
    refused("huge-transform", lying({tif.TIEPOINTS: double(0, 0, 0, 1e300, 5e6, 0)}), "off-grid", "outside"),
    refused("tiny-pixels", lying({tif.PIXEL_SCALE: double(1e-300, 1e-300, 0)}), "off-grid"),
]

BEYOND = 1 << 31


def _cut_ifd(spot: Spot) -> bytes:
    """A right file but for the number of entries in its IFD."""
    data = bytearray(tif.scene_file(spot.dn))
    at = int.from_bytes(data[4:8], "little")
    data[at : at + 2] = b"\xff\xff"
    return bytes(data)


def _ifd_at(place: int) -> Make:
    return raw(lambda spot: b"II*\0" + place.to_bytes(4, "little") + tif.scene_file(spot.dn)[8:])


STRUCTURE = [
    refused("header-alone", raw(b"II*\0\x08\0\0\0"), "unreadable"),
    refused("half-a-header", raw(b"II*\0"), "unreadable"),
    refused("ifd-at-0", _ifd_at(0), "unreadable"),
    refused("ifd-is-the-header", _ifd_at(4), "unreadable"),
    refused("ifd-beyond-the-file", _ifd_at(BEYOND), "unreadable"),
    refused("too-many-entries", raw(_cut_ifd), "unreadable"),
    accepted("ifd-leads-to-itself", raw(lambda spot: tif.chained(tif.scene_file(spot.dn), 0, cycle=True))),
    accepted("ifd-cycle", raw(lambda spot: tif.chained(tif.scene_file(spot.dn), 3, cycle=True))),
    accepted("pages-5000", raw(lambda spot: tif.chained(tif.scene_file(spot.dn), 5000, cycle=False))),
    accepted("pages-70000", raw(lambda spot: tif.chained(tif.scene_file(spot.dn), 70_000, cycle=False))),
    kept_out(
        "too-many-strips",
        lying({tif.STRIP_OFFSETS: Tag(Kind.LONG, (8,), count=0xFFFFFFFF)}),
        "unreadable",
        "incomplete",
    ),
    accepted("too-long-a-text", lying({tif.GDAL_METADATA: Tag(Kind.ASCII, (65,) * 9, count=0x7FFFFFFF)})),
    refused("no-strip-offsets", lying({tif.STRIP_OFFSETS: None}), "unreadable"),
    accepted("no-strip-sizes", lying({tif.STRIP_SIZES: None})),
    refused("strip-beyond-the-file", lying({tif.STRIP_OFFSETS: long(BEYOND)}), "unreadable"),
    refused("negative-strip-offset", lying({tif.STRIP_OFFSETS: Tag(Kind.SLONG, (-1,))}), "unreadable"),
    accepted("negative-size", lying({tif.STRIP_SIZES: Tag(Kind.SLONG, (-5,))})),
    accepted("endless-strip", lying({tif.STRIP_SIZES: long(0xFFFFFFFF)})),
    accepted("short-strip", lying({tif.STRIP_SIZES: long(64)})),
    refused("big-tiff-of-absurd-places", raw(lambda spot: tif.big_tiff(spot.dn, (1 << 63) - 9)), "unreadable"),
    refused("big-tiff-of-places-past-64-bits", raw(lambda spot: tif.big_tiff(spot.dn, (1 << 64) - 1)), "unreadable"),
    refused("no-width", lying({tif.WIDTH: None}), "unreadable"),
    refused("width-0", lying({tif.WIDTH: long(0)}), "unreadable"),
    refused("unknown-compression", lying({tif.COMPRESSION: short(34999)}), "unreadable"),
    refused("unknown-planes", lying({tif.PLANAR: short(7)}), "unreadable"),
    refused("rows-per-strip-0", lying({tif.ROWS_PER_STRIP: long(0)}), "unreadable"),
    refused("tiles-of-width-0", lying({tif.TILE_WIDTH: long(0), tif.TILE_HEIGHT: long(0)}), "unreadable"),
    refused("tag-types-that-do-not-exist", lying({tif.BITS: Tag(Kind.DOUBLE, (16, 16))}), "unreadable", "wrong-dtype"),
]


def _vast(side: int, tile: int, changed: Tags | None = None) -> Make:
    """A sparse file of ``side`` by ``side`` pixels, of which not one is there."""
    tiles = math.ceil(side / tile) ** 2
    sparse = {tif.WIDTH: long(side), tif.HEIGHT: long(side), tif.TILE_WIDTH: long(tile), tif.TILE_HEIGHT: long(tile)}
    empty = {tif.TILE_OFFSETS: long(*[0] * tiles), tif.TILE_SIZES: long(*[0] * tiles), tif.ROWS_PER_STRIP: None}
    own = sparse | empty | dict(changed or {})
    return raw(lambda spot: tif.tiff(tif.scene_tags(spot.dn) | own, []))


def _one_tile(side: int, block: bytes) -> Make:
    """A scene in one deflated tile of ``side`` by ``side`` pixels."""
    tile: Tags = {tif.TILE_WIDTH: long(side), tif.TILE_HEIGHT: long(side), tif.COMPRESSION: short(tif.DEFLATE)}
    return raw(lambda spot: tif.tiff(tif.scene_tags(spot.dn) | tile | {tif.ROWS_PER_STRIP: None}, [block]))


def _many_bands(count: int) -> Make:
    """A file of planes of its own for each band; all but two lie where the second does."""

    def make(spot: Spot) -> None:
        planes = [plane.tobytes() for plane in spot.dn]
        size = len(planes[0])
        many: Tags = {
            tif.BITS: short(*[16] * count),
            tif.SAMPLE_FORMAT: short(*[1] * count),
            tif.SAMPLES: short(count),
            tif.EXTRA_SAMPLES: short(*[0] * (count - 1)),
            tif.PLANAR: short(2),
            tif.STRIP_OFFSETS: long(8, *[8 + size] * (count - 1)),
            tif.STRIP_SIZES: long(*[size] * count),
        }
        spot.path.write_bytes(tif.tiff(tif.scene_tags(spot.dn) | many, planes))

    return make


NODATA: Tags = {tif.GDAL_NODATA: text("65535")}
TOO_MUCH = ("too-large", "off-grid", "unreadable", "incomplete")
SIZES = [
    refused("vast", _vast(800_000, 8192), *TOO_MUCH),
    refused("vast-with-nodata", _vast(800_000, 8192, NODATA), *TOO_MUCH, "all-nodata"),
    refused("vast-as-can-be", _vast(0x7FFFFFFF, 1 << 24), *TOO_MUCH),
    refused("wider-than-numbers", lying({tif.WIDTH: long(0xFFFFFFFF)}), *TOO_MUCH),
    refused("one-vast-tile", _one_tile(17_008, tif.zeros_deflated(1200)), *TOO_MUCH),
    refused("one-large-tile", _one_tile(11_568, tif.zeros_deflated(520)), *TOO_MUCH, "all-zero"),
    refused("one-vaster-tile", _one_tile(32_752, b"\x78\x9c" + bytes(100)), *TOO_MUCH),
    accepted("bands-60000", _many_bands(60_000)),
]

LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
BOMB = f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]><GDALMetadata><Item name="x">&l9;</Item></GDALMetadata>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY l SYSTEM "file:///etc/passwd">]><GDALMetadata><Item name="x">&l;</Item></GDALMetadata>'
NESTED = "<GDALMetadata>" + "<a>" * 50_000 + "</GDALMetadata>"


def _sevens_are_missing(spot: Spot) -> NDArray:
    return np.where(spot.dn == 7, spot.product.nodata, spot.dn).astype(spot.dn.dtype)


TAGS = [
    accepted("xml-bomb", lying({tif.GDAL_METADATA: text(BOMB)})),
    accepted("xml-of-other-files", lying({tif.GDAL_METADATA: text(OUTSIDE)})),
    accepted("nested-xml", lying({tif.GDAL_METADATA: text(NESTED)})),
    accepted(
        "script", written(tags={"TITLE": "<script>alert(1)</script>", "x'; DROP TABLE file_versions;--": "\x1b[2J"})
    ),
    accepted("ten-megabytes-of-tag", written(tags={"COMMENT": "x" * 10_000_000})),
    accepted("own-nodata", written(nodata=7), pixels=_sevens_are_missing),
    accepted("nodata-out-of-range", lying({tif.GDAL_NODATA: text("-9999")})),
    accepted("nodata-1e300", lying({tif.GDAL_NODATA: text("1e300")})),
    accepted("nodata-nan", lying({tif.GDAL_NODATA: text("nan")})),
    accepted("nodata-of-words", lying({tif.GDAL_NODATA: text("none of your business")})),
    accepted("nodata-of-a-megabyte", lying({tif.GDAL_NODATA: text("9" * 1_000_000)})),
]

OF_HEADERS: list[Case] = [*BANDS, *PLACE, *STRUCTURE, *SIZES, *TAGS]

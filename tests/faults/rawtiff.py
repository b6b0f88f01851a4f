"""TIFF files put together byte by byte, so that each part of them can lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_SIZES, PLANAR, PREDICTOR, COLOUR_MAP = 273, 277, 278, 279, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES = (
    *(322, 323, 324, 325),
    *(338, 339, 347),
)
PIXEL_SCALE, TIEPOINTS, GEO_KEYS, GDAL_METADATA, GDAL_NODATA, RPC = 33550, 33922, 34735, 42112, 42113, 50844
NONE, LZW, OLD_JPEG, JPEG, DEFLATE = 1, 5, 6, 7, 8


class Kind(IntEnum):
    """Types of a tag's values."""

    BYTE = 1
    ASCII = 2
    SHORT = 3
    LONG = 4
    SLONG = 9
    DOUBLE = 12
    LONG8 = 16


FORMATS = {Kind.BYTE: "B", Kind.ASCII: "B", Kind.SHORT: "H", Kind.LONG: "I"} | {
    Kind.SLONG: "i",
    Kind.DOUBLE: "d",
    Kind.LONG8: "Q",
}


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of an IFD; ``count`` replaces the true number of values, ``at`` the place where they lie."""

    kind: Kind
    values: tuple[float, ...]
    count: int | None = None
    at: int | None = None

    def packed(self) -> bytes:
        """The values as bytes."""
        letter = FORMATS[self.kind]
        values = self.values if letter == "d" else map(int, self.values)
        return struct.pack(f"<{len(self.values)}{letter}", *values)


def short(*values: int) -> Tag:
    """A tag of 16-bit values."""
    return Tag(Kind.SHORT, values)


def long(*values: int) -> Tag:
    """A tag of 32-bit values."""
    return Tag(Kind.LONG, values)


def double(*values: float) -> Tag:
    """A tag of floats."""
    return Tag(Kind.DOUBLE, values)


def text(value: str) -> Tag:
    """A tag of text."""
    return Tag(Kind.ASCII, tuple(value.encode() + b"\0"))


Tags = Mapping[int, Tag | None]


def scene_tags(dn: NDArray) -> dict[int, Tag]:
    """Tags of an uncompressed scene ``(band, y, x)`` with one strip, in the place where a right one lies."""
    bands, height, width = dn.shape
    return {
        WIDTH: long(width),
        HEIGHT: long(height),
        BITS: short(*[dn.dtype.itemsize * 8] * bands),
        COMPRESSION: short(NONE),
        PHOTOMETRIC: short(1),
        SAMPLES: short(bands),
        ROWS_PER_STRIP: long(height),
        PLANAR: short(1),
        SAMPLE_FORMAT: short(*[3 if dn.dtype.kind == "f" else 1] * bands),
        PIXEL_SCALE: double(10, 10, 0),
        TIEPOINTS: double(0, 0, 0, 5e5, 5e6, 0),
        GEO_KEYS: short(*(1, 1, 0, 3), *(1024, 0, 1, 1), *(1025, 0, 1, 1), *(3072, 0, 1, 32633)),
    } | ({EXTRA_SAMPLES: short(*[0] * (bands - 1))} if bands > 1 else {})


def interleaved(dn: NDArray) -> bytes:
    """Pixels ``(band, y, x)`` as one uncompressed strip holds them."""
    return np.ascontiguousarray(np.moveaxis(dn, 0, -1)).tobytes()


def scene_file(dn: NDArray, changed: Tags | None = None, *, block: bytes | None = None) -> bytes:
    """A scene of one strip; ``changed`` replaces its tags (None removes one), ``block`` its strip."""
    return tiff(scene_tags(dn) | dict(changed or {}), [interleaved(dn) if block is None else block])


def tiff(tags: Tags, blocks: Sequence[bytes]) -> bytes:
    """A little-endian TIFF of one page: header, blocks, IFD, values.

    Places and sizes of the blocks are true unless ``tags`` has its own or removes them with None.
    """
    data = bytearray(b"II*\0\0\0\0\0")
    places = []
    for block in blocks:
        places.append(len(data))
        data += block + b"\0" * (len(block) % 2)
    tiled = TILE_WIDTH in tags
    own = {
        TILE_OFFSETS if tiled else STRIP_OFFSETS: long(*places),
        TILE_SIZES if tiled else STRIP_SIZES: long(*map(len, blocks)),
    }
    struct.pack_into("<I", data, 4, len(data))
    return bytes(data) + _ifd(own | dict(tags), len(data))


def _ifd(tags: Tags, at: int) -> bytes:
    """An IFD that lies at ``at``, with the values that do not fit into it behind it."""
    kept = [(code, tag) for code, tag in sorted(tags.items()) if tag is not None]
    entries, values = bytearray(struct.pack("<H", len(kept))), bytearray()
    behind = at + 2 + 12 * len(kept) + 4
    for code, tag in kept:
        packed = tag.packed()
        count = len(tag.values) if tag.count is None else tag.count
        entries += struct.pack("<HHI", code, tag.kind, count)
        if tag.at is None and len(packed) <= 4:
            entries += packed.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", behind + len(values) if tag.at is None else tag.at)
            values += packed + b"\0" * (len(packed) % 2)
    return bytes(entries + b"\0\0\0\0" + values)


def chained(data: bytes, copies: int, *, cycle: bool) -> bytes:
    """A TIFF of one page with ``copies`` more of the same IFD behind it; ``cycle``: the last one leads to the first."""
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    body = data[first : first + 2 + 12 * entries]
    result = bytearray(data + b"\0" * (len(data) % 2))
    struct.pack_into("<I", result, first + len(body), len(result) if copies else first if cycle else 0)
    for index in range(copies):
        last = first if cycle else 0
        following = last if index == copies - 1 else len(result) + len(body) + 4
        result += body + struct.pack("<I", following)
    return bytes(result)


def big_tiff(dn: NDArray, place: int) -> bytes:
    """A BigTIFF whose one strip is said to lie at ``place``."""
    tags = scene_tags(dn) | {STRIP_OFFSETS: Tag(Kind.LONG8, (place,)), STRIP_SIZES: long(dn.nbytes)}
    entries, values = bytearray(struct.pack("<Q", len(tags))), bytearray()
    behind = 16 + 8 + 20 * len(tags) + 8
    for code, tag in sorted(tags.items()):
        packed = tag.packed()
        entries += struct.pack("<HHQ", code, tag.kind, len(tag.values))
        entries += packed.ljust(8, b"\0") if len(packed) <= 8 else struct.pack("<Q", behind + len(values))
        values += packed if len(packed) > 8 else b""
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + bytes(entries) + bytes(8) + bytes(values)


def zeros_deflated(megabytes: int) -> bytes:
    """A deflate stream of so many megabytes of zeros, a thousandth of their size, made without packing them all."""
    packer = zlib.compressobj(9)
    head = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + again * (megabytes - 1)  # after a full flush nothing refers to what came before

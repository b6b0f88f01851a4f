"""Hostile files by what they are: other formats, links, names, side files, files that somebody is writing."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import zipfile
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import rasterio

from tests.faults.case import (
    ASIDE,
    CRS,
    SHAPE,
    TRANSFORM,
    Case,
    Make,
    Spot,
    accepted,
    raw,
    refused,
    unseen,
    waiting,
    write,
)
from tests.faults.rawtiff import scene_file

BROKEN = b"II*\0 and nothing else"
WARPED = "<GeoTransform>500200, 10, 0, 5000000, 0, -10</GeoTransform>"

VRT = """<VRTDataset rasterXSize="48" rasterYSize="40"><SRS>EPSG:32633</SRS>
<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>
<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{source}</SourceFilename></SimpleSource>
</VRTRasterBand><VRTRasterBand dataType="UInt16" band="2"><SimpleSource><SourceFilename>{source}</SourceFilename>
<SourceBand>2</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow>
<UpperLeftX>500000</UpperLeftX><UpperLeftY>5000000</UpperLeftY><LowerRightX>500480</LowerRightX>
<LowerRightY>4999600</LowerRightY><SizeX>48</SizeX><SizeY>40</SizeY></DataWindow><Projection>EPSG:32633</Projection>
<BandsCount>2</BandsCount><DataType>UInt16</DataType></GDAL_WMS>"""
WCS = "<WCS_GDAL><ServiceURL>{url}/wcs?</ServiceURL><CoverageName>sky</CoverageName></WCS_GDAL>"
WMTS = "<GDAL_WMTS><GetCapabilitiesUrl>{url}/WMTSCapabilities.xml</GetCapabilitiesUrl><Layer>sky</Layer></GDAL_WMTS>"
GTI = """<GDALTileIndexDataset><IndexDataset>{folder}/index.gpkg</IndexDataset><IndexLayer>index</IndexLayer>
<LocationField>location</LocationField></GDALTileIndexDataset>"""
MRF = "<MRF_META><CachedSource><Source>{folder}/scene.tif</Source></CachedSource></MRF_META>"
PAM = """<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>7, 1, 0, 7, 0, -1</GeoTransform><PAMRasterBand band="1">
<NoDataValue>7</NoDataValue><Scale>9</Scale><Offset>9</Offset></PAMRasterBand></PAMDataset>"""


def _text(template: str, source: str = "{folder}/scene.tif") -> Make:
    content = template.replace("{source}", source)
    return lambda spot: spot.path.write_text(content.format(url=spot.url, folder=spot.canary))


def _picture(driver: str, bands: int = 1, dtype: str = "uint8") -> Make:
    def make(spot: Spot) -> None:
        aside = spot.path.with_suffix(ASIDE)
        write(spot, spot.dn[:bands].astype(dtype), path=aside, driver=driver, crs=None, transform=None, nodata=None)
        aside.replace(spot.path)

    return make


def _zip(spot: Spot) -> None:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../scene.tif", scene_file(spot.dn))
    spot.path.write_bytes(content.getvalue())


FOREIGN = [
    refused("empty", raw(b""), "unreadable"),
    refused("text", raw(b"This is no raster.\n"), "unreadable"),
    refused("html", raw(b"<!DOCTYPE html><title>404</title>"), "unreadable"),
    refused("noise", raw(np.random.default_rng(0).bytes(5000)), "unreadable"),
    refused("png-picture", _picture("PNG", 2, "uint16"), "unreadable"),
    refused("jpeg-picture", _picture("JPEG"), "unreadable"),
    refused("bmp-picture", _picture("BMP"), "unreadable"),
    refused("hdf5", raw(b"\x89HDF\r\n\x1a\n" + bytes(2000)), "unreadable"),
    refused("zip", _zip, "unreadable"),
    refused("gzip", raw(lambda spot: gzip.compress(scene_file(spot.dn))), "unreadable"),
    refused("vrt-of-a-local-file", _text(VRT), "unreadable"),
    refused("vrt-of-a-url", _text(VRT, "/vsicurl/{url}/scene.tif"), "unreadable"),
    refused("wms", _text(WMS), "unreadable"),
    refused("wcs", _text(WCS), "unreadable"),
    refused("wmts", _text(WMTS), "unreadable"),
    refused("tile-index", _text(GTI), "unreadable"),
    refused("mrf", _text(MRF), "unreadable"),
]


def _link(spot: Spot) -> None:
    spot.path.symlink_to(spot.canary / "scene.tif")


def _hard_link(spot: Spot) -> None:
    elsewhere = spot.path.parent.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    os.link(write(spot, path=elsewhere / "scene.tif"), spot.path)


def _folder(spot: Spot) -> None:
    spot.path.mkdir()
    write(spot, path=spot.path / spot.path.name)


def _socket(spot: Spot) -> None:
    here = Path.cwd()
    os.chdir(spot.path.parent)  # the address of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(spot.path.name)
    finally:
        os.chdir(here)


def _locked(spot: Spot) -> None:
    write(spot)
    spot.path.chmod(0)


LINKS = [
    unseen("link-to-a-scene", _link),
    unseen("link-to-nothing", lambda spot: spot.path.symlink_to("nowhere.tif")),
    unseen("link-to-endless-zeros", lambda spot: spot.path.symlink_to("/dev/zero")),
    unseen("link-to-itself", lambda spot: spot.path.symlink_to(spot.path)),
    unseen("linked-folder", lambda spot: spot.path.symlink_to(spot.canary)),
    unseen("folder", _folder),
    unseen("fifo", lambda spot: os.mkfifo(spot.path)),
    unseen("socket", _socket),
    accepted("hard-link", _hard_link),
]
if os.geteuid() != 0:  # who may read everything reads this too
    LINKS.append(waiting("no-permission", _locked, "unavailable"))

LONG = "scene_{time}_" + "x" * (255 - len("scene_20240601T050000Z_.tif")) + ".tif"

NAMES = [
    unseen("other-name", write, file="image_{time}.tif"),
    unseen("leading-dash", write, file="-scene_{time}.tif"),
    unseen("capital-ending", write, file="scene_{time}.TIF"),
    unseen("hidden", write, file=".scene_{time}.tif"),
    unseen("temporary", write, file="scene_{time}.tif.part"),
    accepted("spaces", write, file="scene_{time}  of  the sky .tif"),
    accepted("unicode", write, file="scene_{time}_雲\u202egro\u0301ß.tif"),
    accepted("shell", write, file="scene_{time}_$(touch pwned);`id`&|'\".tif"),
    accepted("wildcards", write, file="scene_{time}_*?[a-z].tif"),
    accepted("markup", write, file="scene_{time}_[red]{{}}%s.tif"),
    accepted("dots", write, file="scene_{time}_...tif"),
    accepted("percent", write, file="scene_{time}_%2Fvsicurl%2Fhttp%3A%2F%2F127.0.0.1%2Fscene.tif"),
    accepted("address", write, file="scene_{time}_http:..127.0.0.1:80..scene.tif"),
    accepted("archive-path", write, file="scene_{time}_vsizip{{scene.zip}}!.zip.tif"),
    accepted("subdataset", write, file="scene_{time}:GTIFF_DIR:2:.tif"),
    accepted("options", write, file="scene_{time}?driver=VRT&a=b#c.tif"),
    refused("newline", write, "bad-name", file="scene_{time}_new\nline.tif"),
    accepted("longest", write, file=LONG),
    refused("longest-broken", raw(BROKEN), "unreadable", file=LONG.replace("xx", "yy", 1)),
    refused("backslash", write, "bad-name", file="scene_{time}_..\\..\\scene.tif"),
    refused(
        "bytes-that-are-no-text",
        raw(lambda spot: scene_file(spot.dn)),
        "bad-name",
        file="scene_{time}_\udcff\udcfe.tif",
    ),
    refused("a-day-in-words", write, "no-time", file="scene_yesterday.tif"),
    refused("month-13", write, "no-time", file="scene_20241301T000000Z.tif"),
    refused("second-61", write, "no-time", file="scene_20240601T000062Z.tif"),
    refused("year-0", write, "no-time", file="scene_00000101T000000Z.tif"),
    refused("year-1", write, "before-origin", file="scene_00010101T000000Z.tif"),
    refused("before-the-origin", write, "before-origin", file="scene_20240601T040000Z.tif"),
    waiting("far-future", write, "from-future", file="scene_20990101T000000Z.tif"),
    waiting("year-9999", write, "from-future", file="scene_99991231T235959Z.tif"),
]


def _beside(suffix: str, content: str) -> Make:
    def make(spot: Spot) -> None:
        write(spot)
        spot.path.with_name(spot.path.name + suffix).write_text(content)

    return make


def _raster_beside(suffix: str, **profile: Any) -> Make:
    def make(spot: Spot) -> None:
        write(spot)
        other = (spot.dn * 0 + 77).astype(spot.dn.dtype)
        write(spot, other, path=spot.path.with_name(spot.path.name + suffix), **profile)

    return make


def _mask_beside(spot: Spot) -> None:
    write(spot)
    nothing = (spot.dn[:1] * 0).astype("uint8")
    tags = {"INTERNAL_MASK_FLAGS_1": "2", "INTERNAL_MASK_FLAGS_2": "2"}
    write(spot, nothing, path=spot.path.with_name(spot.path.name + ".msk"), nodata=None, tags=tags)


def _world_file(*, placed: bool) -> Make:
    def make(spot: Spot) -> None:
        write(spot, **({} if placed else {"transform": None}))
        numbers = "10\n0\n0\n-10\n500205\n4999995\n" if placed else "10\n0\n0\n-10\n500005\n4999995\n"
        spot.path.with_suffix(".tfw").write_text(numbers)

    return make


RPC = "LINE_OFF: 1\nSAMP_OFF: 1\nLAT_OFF: 1\nLONG_OFF: 1\nHEIGHT_OFF: 1\nLINE_SCALE: 1\nSAMP_SCALE: 1\n"
SIDE_FILES = [
    accepted("aux-xml-beside", _beside(".aux.xml", PAM)),
    accepted("metadata-beside", _beside(".xml", f"<metadata>{WARPED}</metadata>")),
    accepted(
        "rpc-beside", lambda spot: (write(spot), spot.path.with_name(f"{spot.path.stem}_RPC.TXT").write_text(RPC))
    ),
    accepted("overviews-beside", _raster_beside(".ovr")),
    accepted("mask-beside", _mask_beside),
    accepted("world-file-beside", _world_file(placed=True)),
    refused("world-file-instead-of-a-transform", _world_file(placed=False), "off-grid", "wrong-crs"),
]


def _half_written(spot: Spot) -> None:
    """What lies on the disk while a writer is at work: the header, and the first of five strips."""
    aside = spot.path.with_suffix(ASIDE)
    profile = {"crs": CRS, "transform": TRANSFORM, "dtype": spot.dn.dtype}
    shape = {"height": SHAPE[0], "width": SHAPE[1], "count": spot.dn.shape[0], "blockysize": 8}
    with rasterio.Env(GDAL_CACHEMAX=0), rasterio.open(aside, "w", driver="GTiff", **shape, **profile) as file:
        file.write(spot.dn[:, :8], window=((0, 8), (0, SHAPE[1])))
        shutil.copy(aside, spot.path)
    aside.unlink()


def _grows(spot: Spot, stop: Event) -> None:
    """Adds a byte every few milliseconds, and the rest in the end."""
    whole = scene_file(spot.dn)
    with spot.path.open("r+b", buffering=0) as file:
        written = file.seek(0, os.SEEK_END)
        while not stop.wait(0.02) and written < len(whole) - 1:
            written += file.write(whole[written : written + 1])
        file.write(whole[written:])


def _replaced(spot: Spot, stop: Event) -> None:
    """Puts one whole file in the place of another, again and again."""
    aside = spot.path.with_suffix(ASIDE)
    contents = [scene_file(spot.dn[:, ::-1]), scene_file(spot.dn)]
    turn = 0
    while not stop.wait(0.02) or turn % 2:
        aside.write_bytes(contents[turn % 2])
        aside.replace(spot.path)
        turn += 1


WRITERS = [
    waiting("half-written", _half_written, "incomplete"),
    waiting("growing", raw(lambda spot: scene_file(spot.dn)[:3000]), "unstable", "incomplete", live=_grows),
    waiting("replaced", write, "unstable", "incomplete", live=_replaced),
]

OF_FILES: list[Case] = [*FOREIGN, *LINKS, *NAMES, *SIDE_FILES, *WRITERS]

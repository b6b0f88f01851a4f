"""A tiny product in a temporary folder: settings, scenes that are made one by one, and its cube."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from pipeline.bucket import Bucket
from pipeline.config import Settings
from pipeline.cube import Cube, open_cube
from pipeline.ingest import Report, ingest
from pipeline.ledger import Ledger
from pipeline.record import Outlet
from pipeline.scene import mask_path
from pipeline.store import CubeStore
from tests.pipeline.published import an_outlet

ORIGIN = datetime(2024, 6, 1, 5, tzinfo=UTC)
CADENCE = timedelta(minutes=5)
BAND = {"name": "sky", "dtype": "uint16", "scale": 0.1, "offset": -3.0, "units": "1", "nodata": 65535}


@dataclass(frozen=True, slots=True)
class Product:
    """A product of 40 x 48 px, one scene every 5 minutes."""

    settings: Settings

    @property
    def inbox(self) -> Path:
        return self.settings.scenes.folder

    @property
    def store(self) -> CubeStore:
        return CubeStore(self.settings.paths.cube)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.paths.ledger)

    @property
    def transform(self) -> Affine:
        return Affine(*self.settings.grid.transform)

    def time(self, slot: float) -> datetime:
        return ORIGIN + slot * CADENCE

    def dn(self, seed: int, shape: tuple[int, ...] | None = None) -> NDArray:
        """Any DN that a scene may have, no two alike; ``(band, y, x)``."""
        grid, bands = self.settings.grid, self.settings.bands
        values = np.random.default_rng(seed).integers(0, 200, shape or (len(bands), grid.height, grid.width))
        return values.astype(bands[0].dtype)

    def scene(
        self,
        slot: float,
        dn: NDArray | None = None,
        *,
        name: str | None = None,
        tags: dict[str, str] | None = None,
        folder: Path | None = None,
        **profile: Any,
    ) -> Path:
        """Writes a scene that was taken at ``slot``, a fraction of one too; ``profile`` replaces what is right."""
        data = self.dn(round(abs(slot) * 1000)) if dn is None else np.atleast_3d(dn.T).T
        own = {
            "driver": "GTiff",
            "count": data.shape[0],
            "height": data.shape[1],
            "width": data.shape[2],
            "dtype": data.dtype,
            "crs": self.settings.grid.crs,
            "transform": self.transform,
            "nodata": self.settings.bands[0].nodata,
            "blockysize": 8,
            "compress": "deflate",
        }
        path = (folder or self.inbox) / (name or f"scene_{self.time(slot):%Y%m%dT%H%M%SZ}.tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with rasterio.open(path, "w", **own | profile) as file:
            file.update_tags(**(tags or {}))  # before the pixels, or the header would be written again behind them
            file.write(data)
        return path

    def mask(self, scene: Path, values: NDArray, **profile: Any) -> Path:
        """Writes the mask of a scene; ``values`` of ``(y, x)``."""
        assert self.settings.scenes.mask is not None
        name = mask_path(scene, self.settings.scenes.mask).name
        folder = self.settings.scenes.mask.folder
        return self.scene(0, values.astype(np.uint8), name=name, folder=folder, nodata=None, **profile)

    def ingest(self) -> Report:
        return ingest(self.settings)

    def cube(self, **options: Any) -> Cube:
        return open_cube(self.store, **options)

    def stored(self, slot: int, group: str | None = None) -> NDArray:
        """DN of a slot as they lie in the cube: ``(band, y, x)``."""
        return np.asarray(self.cube().root[f"{group or self.cube().layout.groups[0].name}/data"][slot])

    def quality(self, slot: int, group: str | None = None) -> NDArray:
        return np.asarray(self.cube().root[f"{group or self.cube().layout.groups[0].name}/quality"][slot])


@pytest.fixture(scope="session")
def make_product(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Product]:
    """Makes a product; ``mask`` adds masks, the others replace parts of its configuration."""

    def make(
        *,
        bands: Sequence[dict[str, Any]] = (BAND,),
        scenes: dict[str, Any] | None = None,
        grid: dict[str, Any] | None = None,
        axis: dict[str, Any] | None = None,
        mask: dict[str, Any] | None = None,
        root: Path | None = None,
    ) -> Product:
        root = root or tmp_path_factory.mktemp("product")
        inbox: dict[str, Any] = {
            "folder": root / "inbox",
            "pattern": "scene_{time}*.tif",
            "time_format": "%Y%m%dT%H%M%SZ",
        }
        place = {"crs": "EPSG:32633", "transform": (10, 0, 5e5, 0, -10, 5e6), "width": 48, "height": 40}
        if mask is not None:
            inbox["mask"] = {"folder": root / "masks"} | mask
        (root / "inbox").mkdir(exist_ok=True)
        document = {
            "workspace": root / "work",
            "product": {"name": "tiny"},
            "scenes": inbox | (scenes or {}),
            "bands": list(bands),
            "grid": place | (grid or {}),
            "axis": {"origin": ORIGIN, "cadence": CADENCE} | (axis or {}),
        }
        return Product(Settings(**document))

    return make


@pytest.fixture
def product(make_product: Callable[..., Product]) -> Product:
    return make_product()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server."""
    from moto.server import ThreadedMotoServer  # takes seconds

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty place in a bucket, and the rights to it."""
    own = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    name = f"forecasts-{uuid4().hex[:8]}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{name}", method="PUT")):
        return Bucket(f"s3://{name}/all", endpoint=s3_server)


@pytest.fixture(params=["folder", "bucket"])
def outlet(request: pytest.FixtureRequest, tmp_path: Path) -> Outlet:
    """Where the runs of a made-up product come out."""
    if request.param == "folder":
        return an_outlet(tmp_path)
    return an_outlet(request.getfixturevalue("s3_bucket"), made_in=tmp_path)

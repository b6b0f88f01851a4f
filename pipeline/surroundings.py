"""Looks over what a product needs around it: packages, a disk, servers and ports."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pipeline.filesystem import MOUNTS, network_kind
from pipeline.specs import ServiceSpec, StoreSpec, TrackingSpec

BASE = ("rasterio", "icechunk", "zarr", "dask", "prefect", "mlflow")
SCHEDULER = re.compile(r"((tcp|tls|ws|wss|ucx|ucxx)://)?(\[[0-9a-fA-F:]+\]|[^\s/:\[\]]+):(?P<port>\d{1,5})/?")
TIMEOUT_S = 3
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``; ``warning``, it works with a flaw; ``fault``, some command will fail.
        what: the rule.
        found: what was found.
        fix: what to do; empty where all is well.
    """

    level: Literal["ok", "warning", "fault"]
    what: str
    found: str
    fix: str = ""


def packages() -> Iterator[Finding]:
    """What is installed."""
    found = {name: _version(name) for name in BASE}
    missing = [name for name, number in found.items() if number is None]
    what = "the packages of cubecast are installed"
    if missing:
        yield Finding("fault", what, f"missing: {', '.join(missing)}", "set the environment up again: make test")
    else:
        yield Finding("ok", what, ", ".join(f"{name} {number}" for name, number in found.items()))
    what = "TensorFlow is installed, for training and for network forecasts"
    if find_spec("tensorflow") is None:
        fix = "install the extra cpu or gpu of cubecast; ingest, verify and baseline forecasts work without"
        yield Finding("warning", what, "not installed", fix)
    else:
        number = _version("tensorflow") or _version("tensorflow-cpu") or ""
        yield Finding("ok", what, f"tensorflow {number}, keras {_version('keras')}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# The workspace


def workspace(folder: Path, wanted: int, *, cube: bool) -> Iterator[Finding]:
    """Whether the workspace, which may hold a ``cube``, can be written, is local and has room for ``wanted`` bytes."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    what = "workspace is a folder that can be written"
    fault = _why_not_writable(existing)
    if fault is not None:
        yield Finding("fault", what, f"{existing}: {fault}", "mend its permissions, or set another workspace")
        return
    yield Finding("ok", what, str(folder))
    yield from _local(existing, cube=cube)
    yield _room(existing, wanted)


def _why_not_writable(folder: Path) -> str | None:
    if not folder.is_dir():
        return "is a file"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _local(folder: Path, *, cube: bool) -> Iterator[Finding]:
    what = "the workspace lies on a local disk, since locks and databases do not hold on a network"
    kind = network_kind(MOUNTS.read_text(encoding="utf-8", errors="replace"), folder) if MOUNTS.is_file() else None
    if kind:
        yield Finding("fault" if cube else "warning", what, f"{folder} is on {kind}", "set a workspace on a local disk")
    elif kind is not None:
        yield Finding("ok", what, str(folder))


def _room(folder: Path, wanted: int) -> Finding:
    free = shutil.disk_usage(folder).free
    what = "the disk has room for the scenes uncompressed and 1 GiB for models and forecasts"
    found = f"{free / GIB:.1f} GiB free, {wanted / GIB:.1f} GiB wanted"
    if free >= wanted:
        return Finding("ok", what, found)
    return Finding("warning", what, found, "free some space, or set a workspace on a larger disk")


# The services


def store(spec: StoreSpec) -> Iterator[Finding]:
    """Where the cube lies, if not in the workspace; nothing is asked there."""
    if spec.url:
        found = f"{spec.url} at {spec.endpoint or 'AWS'}, {spec.region}"
        yield Finding("ok", "the cube lies on S3-compatible storage, as store.url says", found)


def scheduler(spec: ServiceSpec) -> Iterator[Finding]:
    """Whether the address of the dask scheduler can be one; nobody is called."""
    if not spec.dask:
        return
    what = "services.dask is the address of a dask scheduler"
    match = SCHEDULER.fullmatch(spec.dask)
    if match is None or not 0 < int(match["port"]) < 65536:
        yield Finding("fault", what, spec.dask, "write it like tcp://host:8786; empty runs the work on threads here")
    else:
        yield Finding("ok", what, spec.dask)


def tracking(spec: TrackingSpec) -> Iterator[Finding]:
    """Whether the MLflow server answers, where one is configured."""
    if not spec.uri.startswith(("http://", "https://")):
        return
    what = "the MLflow server at tracking.uri answers"
    try:
        with urllib.request.urlopen(f"{spec.uri.rstrip('/')}/health", timeout=TIMEOUT_S) as answer:
            yield Finding("ok", what, f"{spec.uri}: {answer.status}")
    except urllib.error.HTTPError as error:
        fix = "check the address and your credentials (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
        yield Finding("warning", what, f"{spec.uri}: {error.code} {error.reason}", fix)
    except (OSError, ValueError) as error:
        fix = "start the server (cubecast up), or mend tracking.uri; empty keeps the record in the workspace"
        yield Finding("fault", what, f"{spec.uri}: {getattr(error, 'reason', error)}", fix)


def ports(spec: ServiceSpec) -> Iterator[Finding]:
    """Whether the ports of cubecast's own servers are free."""
    for name, port in (("prefect_port", spec.prefect_port), ("mlflow_port", spec.mlflow_port)):
        what = f"services.{name} is free for cubecast up"
        fault = _why_not_free(port)
        if fault is None:
            yield Finding("ok", what, str(port))
        else:
            fix = f"nothing, if cubecast up runs already; otherwise set services.{name} to another port"
            yield Finding("warning", what, f"{port}: {fault}", fix)
    if spec.prefect_port == spec.mlflow_port:
        what = "Prefect and MLflow have a port each"
        yield Finding("fault", what, f"both have {spec.prefect_port}", "set services.mlflow_port to another port")


def _why_not_free(port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just closed counts as free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return None

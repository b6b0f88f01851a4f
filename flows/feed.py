"""A product of made-up scenes that come while you watch: what `make up` shows to who has no scenes yet."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flows.server import Server

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.synthetic import SyntheticSpec

FOLDER: Final = Path("work/up")
CONFIG: Final = "product.toml"
INBOX: Final = "inbox"
NAME: Final = "up"
CADENCE: Final = timedelta(minutes=1)
HISTORY: Final = 180
"""Slots that lie in the inbox from the beginning: three hours to learn from."""
LONGEST: Final = 3 * 24 * 60
"""Slots of one sky; on, and a new sky begins, because each is made from its beginning (a minute for three days)."""
KEPT: Final = timedelta(hours=6)
"""Scenes older than this leave the inbox; the cube has them."""
SIZE: Final = 128  # px
PATIENCE: Final = 600.0  # seconds for the first ingest
ENOUGH: Final = 0.8
"""Part of the history that a first training needs; some scenes never came."""

ATTEMPTS: Final = 5  # to have a first network trained
DEAD: Final = frozenset({"CRASHED", "FAILED", "CANCELLED"})  # types of states that nothing comes of

Say = Callable[[str], None]


def made_up(folder: Path = FOLDER, *, say: Say) -> Path:
    """The configuration of the made-up product; the first time, it is written, with three hours of scenes."""
    config = folder / CONFIG
    if not config.exists():
        say(f"Making up {HISTORY} scenes of the last {HISTORY * CADENCE.total_seconds() / 3600:g} hours in {folder}")
        _write_product(folder, config)
    return config


def _write_product(folder: Path, config: Path) -> None:
    from pipeline.config import load
    from pipeline.inspect import inspect, write

    spec = _sky(_minute(datetime.now(UTC)) - HISTORY * CADENCE)
    _send(folder / INBOX, spec, 0, until=datetime.now(UTC))
    draft = folder / f".{CONFIG}"
    write(inspect(folder / INBOX), draft, overwrite=True)
    write(_tuned(load(draft), folder, spec), draft, overwrite=True)
    draft.replace(config)


def _sky(start: datetime) -> SyntheticSpec:
    from pipeline.synthetic import SyntheticSpec

    # The sun of a day of 72 hours, from a day before to a day after: it never sets, whenever somebody watches.
    return SyntheticSpec(
        height=SIZE,
        width=SIZE,
        frames=LONGEST,
        cadence=CADENCE,
        start=start,
        speed=1.5,
        swirl=0.5,
        sunrise=-24.0,
        sunset=48.0,
    )


def _minute(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)


def _tuned(settings: Settings, folder: Path, spec: SyntheticSpec) -> Settings:
    """What no look at the scenes can tell, and a training of a minute."""
    from pipeline.synthetic_scenes import AVAILABLE_TAG, PATTERN, TIME_FORMAT

    product = {"name": NAME, "title": "Made-up clouds", "licence": "CC0-1.0", "attribution": "cubecast up"}
    scenes = {"pattern": PATTERN, "time_format": TIME_FORMAT, "available_tag": AVAILABLE_TAG, "folder": Path(INBOX)}
    training = {"epochs": 3, "steps_per_epoch": 30, "pixels": 200_000, "chip": 64}
    return settings.model_copy(
        update={
            "workspace": (folder / "product").resolve(),
            "product": settings.product.model_copy(update=product),
            "scenes": settings.scenes.model_copy(update=scenes),
            "bands": tuple(band.model_copy(update={"visible": False}) for band in settings.bands),
            "axis": settings.axis.model_copy(update={"origin": spec.start, "cadence": spec.cadence}),
            "samples": settings.samples.model_copy(update={"horizon": 6}),
            "training": settings.training.model_copy(update=training),
            "forecast": settings.forecast.model_copy(update={"keep_for": timedelta(hours=12)}),
        }
    )


def feed(config: Path, *, say: Say) -> None:
    """Delivers the scenes that have come due since it last ran, then one a minute, for ever."""
    from pipeline.config import load

    settings = load(config)
    now, inbox = _minute(datetime.now(UTC)), settings.scenes.folder
    spec = _sky(settings.axis.origin)
    if (now - spec.start) // CADENCE > LONGEST - 24 * 60:
        spec = _sky(now - HISTORY * CADENCE)
    first = max((now - spec.start) // CADENCE - HISTORY, 0)
    say(f"scenes come into {inbox}, one a minute")
    _send(inbox, spec, first, until=None, say=say)


def _send(inbox: Path, spec: SyntheticSpec, first: int, *, until: datetime | None, say: Say | None = None) -> None:
    """Delivers scenes when they are due; those of the past at once, and what lies there already not again."""
    from pipeline.synthetic_feed import deliver, deliveries

    for scene in deliveries(spec, first):
        if until is not None and scene.due > until:
            return
        if (inbox / scene.name).exists():
            continue
        time.sleep(max(0.0, (scene.due - datetime.now(UTC)).total_seconds()))
        deliver(inbox, scene, spec)
        if say is not None:
            say(f"{scene.name} {scene.fate}")
            _clear(inbox, scene.time - KEPT)


def _clear(inbox: Path, before: datetime) -> None:
    for path in inbox.glob("*.tif"):
        if path.stat().st_mtime < before.timestamp():
            path.unlink()


def begin(server: Server, config: Path, *, say: Say) -> None:
    """Has a first network trained once the history is in the cube; an ingest watches the inbox already."""
    from pipeline.config import load

    settings = load(config)
    if settings.paths.champion.exists():
        return
    say("the history is ingested, then a first network is trained")
    deadline = time.monotonic() + PATIENCE
    while _frames(settings) < ENOUGH * HISTORY:
        if time.monotonic() > deadline:
            say(f"the history is not in the cube after {PATIENCE:g} s: train later, by hand")
            return
        time.sleep(5)
    _order(server, f"train/{settings.product.name}", "first-train")


def _frames(settings: Settings) -> int:
    """How many scenes the cube has; an ingest that watches does not end when they are in."""
    from pipeline.cube import open_cube, store_of

    store = store_of(settings)
    return len(open_cube(store).observed()) if store.exists() else 0


def _order(server: Server, deployment: str, key: str) -> str:
    """Asks for a run, once; again where the one that was asked for has died. Its id."""
    found, run = server.call(f"/deployments/name/{deployment}"), {"id": ""}
    for attempt in range(ATTEMPTS):
        order: dict[str, Any] = {"idempotency_key": f"{key}-{attempt}-{found['id']}", "tags": found["tags"]}
        run = server.call(f"/deployments/{found['id']}/create_flow_run", order)
        if run.get("state_type") not in DEAD:
            break
    return str(run["id"])


def main(config: str) -> None:
    """Feeds the product of a configuration, on the server of the environment."""
    server = Server.of_environment()
    if server is not None:
        threading.Thread(target=begin, args=(server, Path(config)), kwargs={"say": _tell}, daemon=True).start()
    feed(Path(config), say=_tell)


def _tell(line: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%SZ} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

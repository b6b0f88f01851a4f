"""What the command line says of cubes and scenes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import facts_table, out, size_text, table, time_text

if TYPE_CHECKING:
    from flows.cube_verbs import Arrays, Cleaned, Info, Repaired
    from flows.scene_verbs import CubeScene, FileEntry, Shown
    from pipeline.audit import Audit, Damage

BEYOND = "No repair mends an array that belongs to no slot: take the cube from a backup, or remove it and ingest again."


def cube_facts(found: Info) -> dict[str, str]:
    """What a cube holds, in words."""
    height, width = found.shape
    gap = found.longest_gap
    gaps = f"{found.empty} empty in between"
    if gap:
        gaps += f", at most {gap.slots} in a row ({time_text(gap.after)} to {time_text(gap.before)})"
    span = f"{time_text(found.first)} to {time_text(found.last)}" if found.first and found.last else "none yet"
    return {
        "product": found.product,
        "place": found.place + (f", {size_text(found.size)}" if found.size is not None else ""),
        "schema": str(found.schema_version),
        "snapshot": f"{found.snapshot}, {found.snapshots} in all",
        "tags": ", ".join(f"{name} = {snapshot}" for name, snapshot in found.tags.items()) or "none",
        "grid": f"{width} x {height} px of {found.transform[0]:g} x {found.transform[4]:g}, {found.crs}",
        **{f"array {array.name}": _array_text(array) for array in found.arrays},
        "slots": f"{found.observed} of {found.slots} hold a scene, every {_duration(found.cadence)}",
        "observed": span,
        "gaps": gaps,
        "scenes": ", ".join(f"{count} {role}" for role, count in found.scenes.items()),
    }


def _array_text(array: Arrays) -> str:
    bands = ", ".join(f"{name} in {units}" if units != "1" else name for name, units in array.bands.items())
    return f"{bands}; {array.dtype}, chunks of {' x '.join(map(str, array.chunk))}, {array.codecs}"


def _duration(duration: timedelta) -> str:
    """A cadence for people.

    >>> _duration(timedelta(minutes=5)), _duration(timedelta(days=5))
    ('5 min', '5 d')
    """
    minutes = round(duration / timedelta(minutes=1))
    return f"{minutes // 1440} d" if minutes % 1440 == 0 else f"{minutes} min"


def audit(found: Audit, config: Path) -> None:
    """Prints what an audit found, and what to do about it."""
    out().print(f"{found.slots} slot(s), {size_text(found.size)} read; {found.scenes} fingerprint(s) compared")
    if not found.damaged:
        out().print(f"snapshot {found.snapshot} is whole")
        return
    out().print(table(("slot", "damaged", "how it shows", "scenes"), [_damage_row(one) for one in found.damaged]))
    if found.damaged_slots:
        out().print(f"Mend it from the inbox: cubecast cube repair --config {config}", markup=False)
    if any(one.slot is None for one in found.damaged):
        out().print(BEYOND)


def _damage_row(damage: Damage) -> tuple[str, ...]:
    time = time_text(damage.time) if damage.time else "-"
    return time, damage.what, damage.reason, ", ".join(damage.scenes)


def repaired(done: Repaired) -> None:
    """Prints what came of a repair."""
    if not done.slots and not done.beyond:
        out().print("nothing is damaged")
    for slot in done.slots:
        text = "mended" if slot.mended else f"not mended: {slot.reason}"
        out().print(f"{time_text(slot.time)}: {text}", markup=False)
    if done.beyond:
        out().print(f"{', '.join(done.beyond)}: damaged. {BEYOND}", markup=False)


def cleaned_line(done: Cleaned) -> str:
    """What a cleaning took away, in a sentence."""
    files = f"{done.chunks} chunk(s), {done.manifests} manifest(s) and {done.snapshots} snapshot(s)"
    if done.dry_run:
        also = ", and what only these hold" if done.expired else ""
        return f"would expire {done.expired} snapshot(s) and delete {files}, {size_text(done.size)}{also}"
    return f"{done.expired} snapshot(s) expired; {files} deleted, {size_text(done.size)}"


def shown(found: Shown) -> None:
    """Prints what is known of files, first the ledger's word on each version, then the cube's rows."""
    for file in found.files:
        out().print(facts_table(_file_facts(file)))
    for scene in found.scenes:
        out().print(facts_table(_scene_facts(scene)))


def _file_facts(file: FileEntry) -> dict[str, str]:
    facts = {
        "file": f"{file.file}, {size_text(file.size)}",
        "state": file.state + (f", {file.reason}" if file.reason else ""),
        "why": file.detail,
        "decided": file.decided_at,
    }
    return {name: text for name, text in facts.items() if text}


def _scene_facts(scene: CubeScene) -> dict[str, str]:
    y0, y1, x0, x1 = scene.place
    facts = {
        "scene": f"{scene.id}, {scene.role}",
        "from file": scene.file,
        "slot": time_text(scene.slot_time),
        "acquired": scene.acquired.isoformat(sep=" ").replace("+00:00", "Z"),
        "available": scene.available_at.isoformat(sep=" ").replace("+00:00", "Z"),
        "tile": scene.tile,
        "revision": scene.revision,
        "covers": f"rows {y0} to {y1}, columns {x0} to {x1}; {scene.valid_fraction:.1%} of the grid is good",
        "flags": ", ".join(scene.flags),
        "sha256": scene.sha256,
    }
    return {name: text for name, text in facts.items() if text}

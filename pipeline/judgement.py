"""Which scenes of the cube others show to be stuck or shifted; it changes with every scene that comes or goes.

The judgement looks at the set of scenes alone, so that the order of arrival cannot matter, and only at the few scenes
that a change can concern, so that its cost does not grow with the cube.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.firewall import REFERENCES, level_steps, repeats
from pipeline.quality import Quality
from pipeline.scenetable import SceneRow, SceneTable
from pipeline.specs import FirewallSpec
from pipeline.times import seconds


def judge(changed: Sequence[SceneRow], table: SceneTable, spec: FirewallSpec) -> list[SceneRow]:
    """Rows whose flags differ from what they were, with the new ones.

    Args:
        changed: every row that is new, or stands or falls otherwise than in ``table``, as it is going to be.
        table: the cube before.
        spec: rules of the firewall.
    """
    if not changed:
        return []
    rows = {row.scene.version: row for row in _concerned(changed, table)} | {row.scene.version: row for row in changed}
    standing = [row for row in rows.values() if row.standing]
    judged = [replace(row, flags=flags) for row, flags in zip(standing, _flags(standing, changed, spec), strict=True)]
    return [after for before, after in zip(standing, judged, strict=True) if after.flags != before.flags]


def _flags(standing: Sequence[SceneRow], changed: Sequence[SceneRow], spec: FirewallSpec) -> list[int]:
    impressions = [row.impression for row in standing]
    since = min(row.scene.acquired for row in changed)
    shifted = set() if spec.level == "off" else level_steps(impressions, since=since)
    stuck = set() if spec.stuck == "off" else repeats(impressions)
    alike = {row.fingerprint for row in changed}
    result = []
    for index, row in enumerate(standing):
        level = index in shifted if row.scene.acquired >= since else bool(row.flags & Quality.LEVEL)
        same = index in stuck if row.fingerprint in alike else bool(row.flags & Quality.STUCK)
        result.append(int(Quality.LEVEL * level | Quality.STUCK * same))
    return result


def _concerned(changed: Sequence[SceneRow], table: SceneTable) -> Iterable[SceneRow]:
    """Standing rows of the cube that the changed ones bear on, or are measured by."""
    columns = table.columns
    standing = table.standing
    since = min(seconds(row.scene.acquired) for row in changed)
    tiles = {row.scene.tile for row in changed}
    of_tile = np.logical_or.reduce([columns["tile"] == tile for tile in tiles])
    later = standing & of_tile & (columns["acquired"] >= since)
    alike = standing & np.isin(columns["fingerprint"], [row.fingerprint for row in changed if row.fingerprint])
    even = standing & (columns["flags"] & int(Quality.LEVEL) == 0) & ~np.isnan(columns["middle"])
    chosen = set(np.nonzero(later | alike)[0].tolist())
    for tile in tiles:
        before = np.nonzero(even & (columns["tile"] == tile) & (columns["acquired"] < since))[0]
        chosen |= set(before[np.argsort(columns["acquired"][before])][-REFERENCES:].tolist())
    return [table.row(index) for index in sorted(chosen)]

"""What a network has learned from, so that no later training that starts from it judges itself by the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any

from pipeline.grid import Window
from pipeline.samples import Sample, Split
from pipeline.times import TimeAxis, parse_time, stamp


@dataclass(frozen=True, slots=True)
class Seen:
    """The frames that a network has learned from.

    Attributes:
        area: of the grid.
        until: valid time of the last of them, UTC.
    """

    area: Window
    until: datetime

    @classmethod
    def of(cls, split: Split, axis: TimeAxis) -> Seen:
        """What the training part holds."""
        return cls(split.training_area, axis.valid_time(max(slot for one in split.training for slot in one.slots)))

    def meets(self, split: Split, axis: TimeAxis) -> str:
        """The part of a later split that must be new to a network, but is not to this one; empty: there is none."""
        if self.area.intersection(split.validation_area) is not None and self.knows(split.validation, axis):
            return "validation"
        return "test" if self.knows(split.test, axis) else ""

    def knows(self, samples: Iterable[Sample], axis: TimeAxis) -> bool:
        """Whether something that samples must meet was learned from, wherever on the grid."""
        first = min((one.targets[0] for one in samples), default=None)
        return first is not None and axis.valid_time(first) <= self.until

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {"area": list(astuple(self.area)), "until": stamp(self.until)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Seen:
        """The inverse of :meth:`to_json`."""
        return cls(Window(*document["area"]), parse_time(document["until"]))

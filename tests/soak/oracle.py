"""What must come of a story, said from the story alone: no word of this looks at what the product did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.soak.scenario import BROKEN, Fault, Scenario


@dataclass(frozen=True, slots=True, order=True)
class Lead:
    """A forecast for a slot, made for an init time some slots before it."""

    init: int
    ahead: int

    @property
    def valid(self) -> int:
        """The slot that it is of."""
        return self.init + self.ahead


@dataclass(frozen=True, slots=True)
class Oracle:
    """What a story asks for.

    Attributes:
        told: the story.
        horizon: leads of a forecast, in slots.
    """

    told: Scenario
    horizon: int

    @property
    def came(self) -> dict[int, int]:
        """Slot -> step in which a scene of it came that can be read; the history came before step 0."""
        found = {one.slot: one.step for one in self.told.history}
        for one in self.told.arrivals:
            if one.fault not in BROKEN:
                found[one.slot] = min(one.step, found.get(one.slot, one.step))
        return found

    def forecasts(self, step: int) -> frozenset[int]:
        """Slots whose forecast falls due in a step: those whose scene came in it, on time or late."""
        return frozenset(slot for slot, came in self.came.items() if came == step)

    def forecasts_by(self, step: int) -> frozenset[int]:
        """Slots that have a forecast at the end of a step."""
        return frozenset(slot for slot, came in self.came.items() if 0 <= came <= step)

    def scores_by(self, step: int) -> frozenset[Lead]:
        """Leads whose truth has come by the end of a step, of forecasts that have been made by then."""
        return frozenset(one for one in self._leads(step) if self.came.get(one.valid, step + 1) <= step)

    def _leads(self, step: int) -> Iterator[Lead]:
        for init in self.forecasts_by(step):
            yield from (Lead(init, ahead) for ahead in range(1, self.horizon + 1))

    @property
    def refused(self) -> frozenset[str]:
        """Names of files that the ledger must name as refused."""
        return frozenset(one.name for one in self.told.arrivals if one.fault in BROKEN)

    def duplicates(self) -> dict[str, str]:
        """Name of a copy -> name of what it is a copy of; the ledger may call either one the duplicate."""
        copies = [one for one in self.told.arrivals if one.fault is Fault.REPEATED and one.name.endswith("_copy.tif")]
        return {one.name: self.told.name(one.slot) for one in copies}

    def files_by(self, step: int) -> frozenset[str]:
        """Names of all files that have come by the end of a step, which the ledger knows then."""
        return frozenset(one.name for one in (*self.told.history, *self.told.arrivals) if one.step <= step)

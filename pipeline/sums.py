"""Sums over pixels that add up over init times, so that every pixel counts alike whatever run it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What classes of sums have in common: their fields are arrays ``(lead, band, ...)`` that add up.

    Attributes:
        SAME: names of the fields that are no arrays but tuples: they say what is counted, and have to be alike in sums
            that are added.
    """

    SAME: ClassVar[tuple[str, ...]] = ()

    def __add__(self, other: Self) -> Self:
        if not self.alike(other):
            asked, found = ({name: getattr(one, name) for name in self.SAME} for one in (self, other))
            msg = f"sums add up where they count the same, found {asked} and {found}"
            raise ValueError(msg)
        return self._joined(other)

    def _joined(self, other: Any) -> Self:
        """Sum of both, which count the same."""
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in self._arrays()})

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Sums) and self.to_json() == other.to_json()

    __hash__ = None  # pyright: ignore[reportAssignmentType] - arrays have no hash

    def alike(self, other: Self) -> bool:
        """Whether both count the same."""
        return all(getattr(self, name) == getattr(other, name) for name in self.SAME)

    def at(self, lead: int, band: int) -> Self:
        """One lead and band, counted from 0, without these two axes."""
        return replace(self, **{name: np.asarray(getattr(self, name)[lead, band]) for name in self._arrays()})

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        same = {name: list(getattr(self, name)) for name in self.SAME}
        return same | {name: getattr(self, name).tolist() for name in self._arrays()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(**{name: tuple(v) if name in cls.SAME else np.array(v) for name, v in document.items()})

    @classmethod
    def _arrays(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name not in cls.SAME]


Kind = TypeVar("Kind", bound=Sums)


def pooled(parts: Iterable[Kind | None]) -> Kind | None:
    """Sum of those that count what the last one counts; None where there is none."""
    given = [part for part in parts if part is not None]
    return reduce(add, [part for part in given if part.alike(given[-1])]) if given else None


def ratio(part: NDArray, whole: NDArray | float) -> NDArray[np.float64]:
    """``part / whole``, NaN where the whole is zero or unknown."""
    above, below = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def valid_in_both(forecast: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Where forecast and truth are both known; the shape of each.

    Raises:
        ValueError: they are not both ``(lead, y, x, band)``.
    """
    if forecast.shape != truth.shape or forecast.ndim != 4:
        msg = f"forecast and truth are both (lead, y, x, band), found {forecast.shape} and {truth.shape}"
        raise ValueError(msg)
    return np.isfinite(forecast) & np.isfinite(truth)

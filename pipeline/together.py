"""Several products learned together: which ones may be, and chips drawn from all of them.

Each gives what its own split leaves to training, standardised by its own statistics; validation and test are those of
the first product alone. No split knows of another product's: two cubes of the same place and time must not be joined,
or the training part of one may show the test part of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pipeline.chips import ChipReader, Chips
from pipeline.config import Settings, load
from pipeline.errors import ConfigError
from pipeline.grid import Window, pixel_size

SAME_PIXEL = 0.1  # by which pixel sizes may differ: what a network learns of scales does not carry over
SHARING = 3  # a stream of random numbers of its own, beside those of the readers


def partners(settings: Settings) -> tuple[Settings, ...]:
    """The further products that a product learns from.

    Raises:
        ConfigError: a configuration is missing or broken, or its product is of another kind.
    """
    others = tuple(load(path) for path in settings.training.together)
    for other in others:
        _require_alike(settings, other)
    names = [one.product.name for one in (settings, *others)]
    if len(set(names)) < len(names):
        msg = f"products that are learned together are different ones, found {names}: mend training.together"
        raise ConfigError(msg)
    return others


def _require_alike(settings: Settings, other: Settings) -> None:
    for what, own, found in zip(_FACTS, _facts(settings), _facts(other), strict=True):
        if own != found:
            raise ConfigError(_unlike(settings, other, f"{what} is {own} here and {found} there"))
    own, found = (pixel_size(one.grid.geobox()) for one in (settings, other))
    if abs(own - found) > SAME_PIXEL * min(own, found):
        raise ConfigError(_unlike(settings, other, f"pixels are {own:.4g} m here and {found:.4g} m there"))


_FACTS = (
    "the number of bands",
    "the numbers of the bands that are forecast",
    "what is forecast on a logarithm or from a floor",
    "samples.context_frames",
    "samples.horizon",
    "axis.cadence",
    "[covariates]",
)


def _facts(settings: Settings) -> tuple[object, ...]:
    """In the order of their names."""
    told = settings.covariates
    return (
        len(settings.bands),
        [number for number, band in enumerate(settings.bands, 1) if band.forecast],
        [(band.transform, band.floor is not None) for band in settings.bands if band.forecast],
        settings.samples.context_frames,
        settings.samples.horizon,
        str(settings.axis.cadence),
        {**told.model_dump(exclude={"static"}), "static": len(told.static)},
    )


def _unlike(settings: Settings, other: Settings, found: str) -> str:
    return (
        f"products learned together share bands, context, horizon, cadence, covariates and, within {SAME_PIXEL:.0%}, "
        f"the pixel size, but of {settings.product.name} and {other.product.name} {found}: take it out of "
        "training.together, or give it a configuration like this one's"
    )


@dataclass(frozen=True, slots=True)
class JointReader:
    """Draws chips from several products, each standardised by its own statistics; it reads like a :class:`ChipReader`.

    Every chip of a batch comes from a product drawn in proportion to its samples.

    Attributes:
        readers: one a product, the one whose network it is first; alike in the size of a chip and of a batch.
        seed: of the draws.
    """

    readers: tuple[ChipReader, ...]
    seed: int

    def __post_init__(self) -> None:
        kinds = {(one.size, one.batch) for one in self.readers}
        if len(kinds) != 1:
            msg = f"readers that are joined are alike in the size of a chip and of a batch, found {sorted(kinds)}"
            raise ValueError(msg)

    @property
    def batch(self) -> int:
        """Chips a batch."""
        return self.readers[0].batch

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of a chip."""
        return self.readers[0].size

    @property
    def shares(self) -> NDArray[np.float64]:
        """How much of the chips comes from each product."""
        samples = np.array([len(one.samples) for one in self.readers], np.float64)
        return samples / samples.sum()

    def watching(self, samples: tuple[Chips, ...], area: Window, size: tuple[int, int]) -> ChipReader:
        """See :meth:`ChipReader.watching`; the first product is the one that is watched."""
        return self.readers[0].watching(samples, area, size)

    def iterate(self, step: int = 0) -> Iterator[Chips]:
        """The batches from a step on, without end."""
        return (self.read(at) for at in count(step))

    def read(self, step: int) -> Chips:
        """The batch of a step; chips of the same product stand together."""
        random = np.random.default_rng([self.seed, step, SHARING])
        counts = random.multinomial(self.batch, self.shares).tolist()
        return _joined([one.sized(chips).read(step) for one, chips in zip(self.readers, counts, strict=True) if chips])


def _joined(batches: list[Chips]) -> Chips:
    told = [one.covariates for one in batches if one.covariates is not None]
    return Chips(
        np.concatenate([one.frames for one in batches]),
        np.concatenate([one.ages for one in batches]),
        np.concatenate([one.targets for one in batches]),
        np.concatenate(told) if told else None,
    )

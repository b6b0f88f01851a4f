"""Every hostile file, and inboxes full of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.faults.case import CRS, PRODUCTS, SHAPE, TRANSFORM, Case, Spot
from tests.faults.cases_of_blocks import OF_BLOCKS
from tests.faults.cases_of_files import OF_FILES
from tests.faults.cases_of_headers import OF_HEADERS

CASES: tuple[Case, ...] = (*OF_FILES, *OF_HEADERS, *OF_BLOCKS)
ORIGIN = datetime(2024, 6, 1, 5, tzinfo=UTC)
CADENCE = timedelta(minutes=5)
SCALE, OFFSET = 0.1, -3.0


@dataclass(frozen=True, slots=True)
class Planted:
    """A case whose file lies in an inbox.

    Attributes:
        case: the case.
        spot: where its file lies.
        slot: of its time, where its name has one.
    """

    case: Case
    spot: Spot
    slot: int

    @property
    def known_as(self) -> str:
        """Its name in records; one that cannot be written down is escaped."""
        name = self.spot.path.name
        return name.encode("unicode_escape").decode() if "bad-name" in self.case.reasons else name

    @property
    def expected(self) -> NDArray[np.float32]:
        """What the cube must give where the scene is accepted: ``(band, y, x)``, NaN where there is nothing."""
        dn = self.case.pixels(self.spot).astype(np.float64)
        return np.where(dn == self.spot.product.nodata, np.nan, dn * SCALE + OFFSET).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Inbox:
    """A product whose inbox is full of hostile files."""

    name: str
    folder: Path
    planted: tuple[Planted, ...]

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.folder / "product.toml"

    @property
    def inbox(self) -> Path:
        """Where the files lie."""
        return self.folder / "inbox"

    @property
    def live(self) -> list[Planted]:
        """Files that somebody goes on writing."""
        return [one for one in self.planted if one.case.live]

    @property
    def workspace(self) -> Path:
        """What the ingest writes."""
        return self.folder / "work"


def plant(name: str, folder: Path, canary: Path, url: str, cases: Iterable[Case] = CASES) -> Inbox:
    """Makes a product with all its cases in the inbox."""
    product = PRODUCTS[name]
    mine = [case for case in cases if case.product == name]
    inbox = Inbox(name, folder, ())
    inbox.inbox.mkdir(parents=True)
    inbox.config.write_text(configuration(name), encoding="utf-8")
    slots = {case.name: index for index, case in enumerate(mine)}
    planted = []
    for case in mine:
        slot = slots[case.twin or case.name]
        time = ORIGIN + slot * CADENCE
        path = inbox.inbox / case.file.format(time=f"{time:%Y%m%dT%H%M%SZ}", name=case.name)
        planted.append(Planted(case, Spot(path, product, product.dn(slot), canary, url), slot))
        case.make(planted[-1].spot)
    return Inbox(name, folder, tuple(planted))


def configuration(name: str, *, shape: tuple[int, int] = SHAPE, scenes: str = "") -> str:
    """The configuration file of a product of the corpus, as a person would write it; ``scenes``: more of that part."""
    product = PRODUCTS[name]
    bands = "\n".join(
        f'[[bands]]\nname = "band_{index}"\nindex = {index}\ndtype = "{product.dtype}"\nscale = {SCALE}\n'
        f"offset = {OFFSET}\nnodata = {product.nodata}\nvalid_min = -3.0\nvalid_max = 20.0\n"
        for index in range(1, product.bands + 1)
    )
    return f"""workspace = "work"
[product]
name = "{name}"
[scenes]
folder = "inbox"
pattern = "scene_{{time}}*.tif"
time_format = "%Y%m%dT%H%M%SZ"
{scenes}
[grid]
crs = "{CRS}"
transform = {list(TRANSFORM)[:6]}
width = {shape[1]}
height = {shape[0]}
[axis]
origin = {ORIGIN.isoformat()}
cadence = "PT5M"
{bands}"""

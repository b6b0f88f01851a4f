"""The ladder's answers, piece by piece: made here, or by the workers of a dask scheduler that see the same files."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, prod
from pathlib import Path
from threading import Lock

from pipeline.baselines import attempt, fill
from pipeline.config import Settings
from pipeline.filling import Past, writable
from pipeline.grid import Window
from pipeline.pieces import Piece, View, around, follow, plan, reach
from pipeline.predictor import Forecast
from pipeline.rungs import Champion, baselines, forecast_bands
from pipeline.tiling import cut
from pipeline.trajectories import Trajectories
from pipeline.workers import each

WORK = "work.pickle"
LARGE = 4_000_000  # pixels of a grid; a smaller one is made in pieces as large as the settings allow, for speed
PIECE = 640 * 2**20  # bytes that a piece of a large grid takes: with TensorFlow and all a run stays under 2 GiB
PIXEL, VALUE = 1500, 35  # bytes for each pixel that is seen, and for each number said of it; measured, 1 and 4 bands
LEAST = 128  # pixels of a piece's side: a margin of fast motion may take more memory than meant
_loading = Lock()


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of a piece: by the whole ladder, and by its rungs below the champion; both of ``piece.outer``."""

    piece: Piece
    said: Forecast
    below: Forecast


@dataclass(frozen=True, slots=True)
class Work:
    """A forecast of a whole grid, to be made in pieces.

    Attributes:
        settings: the product; every rung moves along its ``motion``.
        champion: the best rung; None: there is none.
        view: what the run sees; where that is nothing recent, climatology is all that it says.
        trajectories: of the whole frame; None where nothing recent is seen.
        reach: how far what is said of a pixel may have come along them, pixels.
    """

    settings: Settings
    champion: Champion | None
    view: View
    trajectories: Trajectories | None
    reach: int = 0

    @classmethod
    def begun(cls, settings: Settings, champion: Champion | None, view: View, folder: Path | None) -> Work:
        """With the motion of the whole frame, which is kept in a folder, or in memory."""
        if not view.sample.context:
            return cls(settings, champion, view, None)
        followed = follow(view, settings.motion, folder)
        return cls(settings, champion, view, followed, reach(followed, view))

    @property
    def pieces(self) -> list[Piece]:
        """Independent of each other."""
        return plan(self.view.shape, self._side, self._margin, self._step)

    def answer(self, piece: Piece) -> Answer:
        """What is said of one."""
        said, below = self._said(piece.outer)
        return Answer(piece, self._filled(said, piece.window, piece.outer), below)

    def again(self, window: Window) -> Forecast:
        """What the ladder says of any window, seen in one go."""
        outer = around(window, self._margin, self.view.shape, self._step)
        return cut(self._filled(self._said(outer)[0], window, outer), window.within(outer))

    def _said(self, window: Window) -> tuple[Forecast, Forecast]:
        """By the rungs above climatology, and by those below the champion."""
        if self.trajectories is None:
            nothing = past(self.settings, self.view).nothing(window)
            return nothing, nothing
        seen, horizon = self.view.context(window), self.view.spec.horizon
        along = (self.trajectories.within(window),)
        below = baselines(self.settings, trajectories=along)["extrapolation"].predict(seen, horizon)
        best = None if self.champion is None else attempt(self.champion.along(along), seen, horizon)
        if self.champion is None or best is None:
            return below, below
        return fill(best, self.champion.doubtful(below)), below

    def _filled(self, said: Forecast, window: Window, outer: Window) -> Forecast:
        """With climatology in a window of it, where nothing else is known."""
        said = writable(said)
        past(self.settings, self.view).fill(cut(said, window.within(outer)), window)
        return said

    @property
    def _side(self) -> int:
        """Of a piece, pixels; of a large grid small enough for the memory that a run is meant to take."""
        tile = self.settings.forecast.tile
        if prod(self.view.shape) <= LARGE:
            return tile
        quantities = 1 if self.champion is None else self.champion.quantities
        values = self.view.spec.horizon * len(forecast_bands(self.settings)) * quantities
        seen = isqrt(PIECE // (PIXEL + VALUE * values))
        return max(min(tile, LEAST), min(tile, seen - 2 * self._margin))

    @property
    def _margin(self) -> int:
        halo = 0 if self.champion is None else self.champion.halo
        return halo + self.reach

    @property
    def _step(self) -> int:
        return 1 if self.champion is None else self.champion.step


def past(settings: Settings, view: View) -> Past:
    """The lowest rung of a run."""
    return Past(view, forecast_bands(settings), settings.forecast.climatology_frames)


def answers(work: Work, folder: Path | None, scheduler: str) -> Iterator[Answer]:
    """Every piece's answer, as they get done.

    Args:
        work: what is to be made.
        folder: where workers find the work and leave their answers; None: everything is made here.
        scheduler: address of a dask scheduler whose workers see the same files; empty: everything is made here.

    Raises:
        ServiceError: the scheduler does not answer.
    """
    pieces = work.pieces
    if not scheduler or folder is None or len(pieces) == 1:
        yield from map(work.answer, pieces)
        return
    path = folder / WORK
    path.write_bytes(pickle.dumps(work))
    for done in each(_answered, [(str(path), piece) for piece in pieces], scheduler):
        yield _taken(Path(done))


def _answered(task: tuple[str, Piece]) -> str:
    """Runs on a worker: keys come in and go out, arrays stay in files."""
    path, piece = task
    with _loading:  # a worker's threads share what is loaded, and a network is asked by one of them at a time
        answer = _work(path).answer(piece)
    name = "-".join(map(str, (piece.window.y0, piece.window.x0)))
    file = Path(path).with_name(f"answer-{name}.pickle")
    file.write_bytes(pickle.dumps(answer))
    return str(file)


@lru_cache(maxsize=1)
def _work(path: str) -> Work:
    return pickle.loads(Path(path).read_bytes())


def _taken(file: Path) -> Answer:
    answer: Answer = pickle.loads(file.read_bytes())
    file.unlink()
    return answer

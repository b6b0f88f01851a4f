"""What is known of each published run's skill: one small JSON file a run of errors, and one of cards beside it.

Every forecast reads the errors of the runs before it; the cards are ten times as long, and only tables of scores need
them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from pipeline import durable
from pipeline.scorecard import Card
from pipeline.times import parse_time, stamp

FORECAST = "forecast"  # the published one; the other names are those of the baselines


@dataclass(frozen=True, slots=True)
class Score:
    """Error sums of one predictor at one lead and band of one run; they add up over runs.

    Attributes:
        lead_minutes: lead time.
        band: name.
        predictor: :data:`FORECAST`, or a baseline.
        pixels: how many counted: truth, newest input and all predictors valid there.
        absolute: sum of absolute errors of the median, or of the mean where there is none, in the unit of the band.
        squared: sum of squared errors of the mean.
        covered: how many of the pixels lie within the interval of :data:`pipeline.evaluation.INTERVAL`; None where the
            predictor gives none.
        held: part of them by randomised PIT (:attr:`pipeline.coverage.Coverage.randomised`), which stays nominal where
            much lies exactly at the floor; None where the predictor gives no interval. Of pixels that a network
            forecast, or gave its interval to: those that the ladder filled have none.
        promised: part that the interval promises to hold; None where there is none.
        yielded: whether what was published is the extrapolation, because the network had done worse: it says nothing of
            the network.
    """

    lead_minutes: int
    band: str
    predictor: str
    pixels: int
    absolute: float
    squared: float
    covered: int | None = None
    held: float | None = None
    promised: float | None = None
    yielded: bool = False

    @property
    def missed(self) -> float | None:
        """By how much the interval holds less than it promises; None where it is not known."""
        return None if self.held is None or self.promised is None else self.promised - self.held


@dataclass(frozen=True, slots=True)
class RunScores:
    """What is known of one run's skill so far.

    Attributes:
        run_key: which run.
        init: its init time, UTC.
        model: name and version of what made it.
        scores: of the leads that truth has met.
        rival: name and version of the model whose errors stand as :data:`pipeline.scoring.PREVIOUS`; empty: none was
            asked when the first lead was scored.
    """

    run_key: str
    init: datetime
    model: str
    scores: tuple[Score, ...]
    rival: str = ""

    def scored_leads(self) -> set[int]:
        """Lead times, in minutes, whose truth has been met."""
        return {score.lead_minutes for score in self.scores}


def page(folder: Path, run_key: str, init: datetime) -> Path:
    """File of a run."""
    return folder / f"{stamp(init)}-{run_key}.json"


def load(path: Path) -> RunScores | None:
    """What a file says; None where there is none."""
    if not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    scores = tuple(Score(**score) for score in document["scores"])
    init = parse_time(document["init"])
    return RunScores(document["run_key"], init, document["model"], scores, document.get("rival", ""))


def save(path: Path, scores: RunScores) -> None:
    """Replaces a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = asdict(scores) | {"init": scores.init.isoformat()}
    durable.replace_text(path, json.dumps(document, indent=1) + "\n")


def book(folder: Path, *, since: datetime | None = None) -> Iterator[RunScores]:
    """All runs that have been scored, oldest init time first; those that were scored since a time, where it is given.

    Files that were written before it are not read.
    """
    oldest = since.timestamp() if since is not None else 0.0
    paths = (path for path in sorted(folder.glob("*.json")) if path.stat().st_mtime >= oldest)
    return (found for path in paths if (found := load(path)) is not None)


def recent(folder: Path, model: str, init: datetime, count: int) -> list[RunScores]:
    """The newest runs of a model (name and version) before an init time, oldest first.

    Read are twice as many files as runs are asked for: a new model has few runs, and those before them are many.
    """
    before = sorted(path for path in folder.glob("*.json") if path.name < stamp(init))[-2 * count :]
    runs = (found for path in reversed(before) if (found := load(path)) is not None and found.model == model)
    return list(islice(runs, count))[::-1]


def card_page(path: Path) -> Path:
    """File of a run's cards, by the file of its errors."""
    return path.parent / "cards" / path.name


def load_cards(path: Path, scores: RunScores) -> tuple[Card, ...]:
    """Cards of a run at the leads that have been scored; none where that was before cubecast made them.

    Args:
        path: the file of its errors.
        scores: what that says; cards of other leads are of a verification that died before it wrote the errors.
    """
    file = card_page(path)
    if not file.is_file():
        return ()
    cards = (Card.from_json(card) for card in json.loads(file.read_text(encoding="utf-8")))
    return tuple(card for card in cards if card.lead_minutes in scores.scored_leads())


def save_cards(path: Path, cards: Sequence[Card]) -> None:
    """Replaces the cards of a run, one a line; before its errors, which say that a lead is done."""
    file = card_page(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(card.to_json()) for card in cards)
    durable.replace_text(file, f"[\n{lines}\n]\n")

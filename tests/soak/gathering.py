"""What became of a product, read from its workspace: published runs, scores, the ledger, alarms, leftovers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pipeline.alarms import history
from pipeline.catalog import runs
from pipeline.config import Settings
from pipeline.forecast import outlet
from pipeline.ledger import Ledger
from pipeline.scorebook import book
from pipeline.shelf import shelf_at
from tests.soak.observation import Published, Scored
from tests.soak.oracle import Lead

STAGES = ("**/.staging-*", "**/.removed-*", "**/*.part", "**/.*.tmp")


def forecast_slots(settings: Settings) -> frozenset[int]:
    """Slots with a run that readers see; no manifest is read."""
    shelf, axis = shelf_at(outlet(settings).place, settings.product.name), settings.axis.axis()
    entries = (entry for day in shelf.days() for entry in shelf.entries(day))
    return frozenset(axis.slot(entry.init) for entry in entries if entry.published)


def published(settings: Settings) -> tuple[Published, ...]:
    """Every run that readers see."""
    axis = settings.axis.axis()
    found = runs(outlet(settings).place, settings.product.name)
    return tuple(
        Published(
            axis.slot(run.init), run.run_key, f"{run.model.name} {run.model.version}", run.created, len(run.leads)
        )
        for run in found
    )


def scored(settings: Settings) -> tuple[Scored, ...]:
    """Every score of the whole grid."""
    return tuple(_scores(settings))


def _scores(settings: Settings) -> Iterator[Scored]:
    axis = settings.axis.axis()
    for run in book(settings.paths.verification):
        init = axis.slot(run.init)
        for one in run.scores:
            ahead = one.lead_minutes * 60 // round(axis.cadence.total_seconds())
            lead = Lead(init, ahead)
            yield Scored(run.run_key, lead, one.band, one.predictor, one.pixels, one.absolute)


def scored_leads(settings: Settings) -> frozenset[Lead]:
    """Leads that have a score in any run."""
    return frozenset(one.lead for one in _scores(settings) if one.predictor == "forecast")


def ledger(settings: Settings) -> dict[str, tuple[str, ...]]:
    """File name -> states of its versions."""
    if not settings.paths.ledger.exists():
        return {}
    found: dict[str, list[str]] = defaultdict(list)
    for entry in Ledger(settings.paths.ledger).entries():
        found[entry.key.name].append(entry.state.value)
    return {name: tuple(states) for name, states in found.items()}


def alarms(settings: Settings) -> list[tuple[str, str]]:
    """Kind and measure of the alarms that were raised or cleared, in their order."""
    return [(one.kind, one.measure) for one in history(settings.paths.alarms)]


def leftovers(root: Path) -> tuple[str, ...]:
    """What killed programs left in a workspace; Prefect's and MLflow's own folders are theirs."""
    found = {path for pattern in STAGES for path in root.glob(pattern)}
    theirs = {root / "prefect", root / "mlflow"}
    return tuple(str(path.relative_to(root)) for path in sorted(found) if not theirs & set(path.parents))

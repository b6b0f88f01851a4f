"""From a challenger to a champion: trained as of now, held against who serves, promoted or kept with the reasons."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

from models.contest import Held, Progress, hold
from models.dossier import FOLDER, write_dossier
from models.experiment import Outcome, Watcher, train
from models.gate import Ruling, judge
from models.history import Entry, Step
from models.keepsake import DamagedError
from models.prediction import Network
from models.promotion import RULING, ChangedError, Promotions
from models.registry import Registry
from models.serving import CHAMPION
from models.start import Start
from pipeline.config import Settings
from pipeline.errors import ModelError, NotEnoughFramesError, StoreError

NUMBERS = 3  # digits of what goes into the history
FAULTS = (ModelError, NotEnoughFramesError, StoreError)
"""Why versions cannot be compared; all of it is for a person to read, and none stops the product."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A version held against the champion.

    Attributes:
        version: which.
        champion: the champion at that time; None: nobody served.
        held: what both met.
        ruling: what the gate says.
    """

    version: str
    champion: str | None
    held: Held
    ruling: Ruling


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a challenger.

    Attributes:
        outcome: of its training.
        compared: with the champion; None: they could not be, or the model is not registered yet.
        entry: of the history; None where the model is not registered yet.
        reasons: why it was promoted or not.
    """

    outcome: Outcome
    compared: Compared | None
    entry: Entry | None
    reasons: tuple[str, ...]

    @property
    def promoted(self) -> bool:
        """Whether it was promoted by this."""
        return self.entry is not None and self.entry.step in {Step.PROMOTED, Step.FORCED}


@dataclass(frozen=True, slots=True)
class Wish:
    """How a challenger is made, and what is done with it.

    Attributes:
        start: where its training begins.
        warm: its weights start from the champion's.
        force: it is promoted whatever the gate says.
        reason: of the force.
    """

    start: Start = Start.AUTO
    warm: bool = False
    force: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        if self.force and not self.reason.strip():
            msg = "who promotes a version by force says why, found no reason: give one (--reason TEXT)"
            raise ModelError(msg)


def retrain(settings: Settings, registry: Registry, wish: Wish, *, watcher: Watcher | None = None) -> Settled:
    """Trains a challenger on the newest snapshot, holds it against who serves, and lets the gate decide.

    Args:
        settings: the product.
        registry: where versions are registered.
        wish: how.
        watcher: told how it goes on.

    Raises:
        CubecastError: as :func:`models.experiment.train`.
        ServiceError: MLflow stops answering after the training; the challenger is registered, and can be compared.
    """
    told = watcher or Watcher()
    outcome = train(_warmed(settings, wish), registry, watcher=told, start=wish.start, contends=True)
    if outcome.registered is None:
        waits = (
            "MLflow does not answer: cubecast tracking sync registers the challenger, cubecast models compare goes on"
        )
        return Settled(outcome, None, None, (waits,))
    version, promotions = outcome.registered.version, Promotions(registry, registry.history)
    promotions.challenge(version)
    told.enter("comparing with the champion")
    try:
        compared = compare(settings, registry, version, progress=told.prepared)
    except FAULTS as error:
        return _uncompared(promotions, outcome, wish, error)
    return _settle(promotions, outcome, compared, wish)


def compare(settings: Settings, registry: Registry, version: str, *, progress: Progress | None = None) -> Compared:
    """Holds a version against the champion over the test part of its own snapshot, and puts that on its run's record.

    Raises:
        ModelError: there is no such version, it serves already, or the champion has learned from what is to judge it.
        NotEnoughFramesError: no test init time has all its truth.
        ServiceError: MLflow does not answer.
        StoreError: the version's snapshot is gone.
    """
    serving = registry.alias(CHAMPION)
    listed = registry.listed(version)
    if not listed:
        known = ", ".join(one.version for one in registry.listed()) or "none"
        raise ModelError(
            f"a version that is registered is compared, {version} is none of: {known}. cubecast models list"
        )
    if version == serving:
        raise ModelError(f"a version is held against the champion, and version {version} is that itself: name another")
    if not listed[0].snapshot:
        raise ModelError(
            f"versions are compared at what their training never saw, but nobody noted of version {version}"
            " which snapshot it learned from: train again"
        )
    challenger, champion = registry.load_version(settings, version), _champion(settings, registry, serving)
    held = hold(settings, challenger, champion, listed[0].snapshot, progress=progress)
    ruling = judge(held.trial, settings.models)
    _keep_evidence(registry, held, ruling, (version, serving if champion else None))
    return Compared(version, serving, held, ruling)


def promote(
    settings: Settings, registry: Registry, version: str, *, progress: Progress | None = None
) -> tuple[Compared, Entry]:
    """Compares a version and promotes it if the gate says so.

    Raises:
        ModelError: the gate says no, and why; or as :func:`compare`.
    """
    compared = compare(settings, registry, version, progress=progress)
    if not compared.ruling.promotes:
        reasons = "; ".join(compared.ruling.reasons)
        raise ModelError(
            f"a version is promoted that the gate lets through, version {version} is not: {reasons}. To promote it all "
            f"the same: cubecast models promote {version} --force --reason TEXT"
        )
    return compared, _promoted(Promotions(registry, registry.history), compared)


def force(settings: Settings, registry: Registry, version: str, reason: str) -> Entry:
    """Promotes a version by a person's word, if it can be loaded and fits the product.

    Raises:
        ModelError: no reason, no such version, or it does not fit.
    """
    Wish(force=True, reason=reason)
    registry.load_version(settings, version)
    promotions = Promotions(registry, registry.history)
    return promotions.promote(version, against=registry.alias(CHAMPION), reason=reason, forced=True)


def roll_back(settings: Settings, registry: Registry, reason: str) -> Entry:
    """Lets the champion's predecessor serve again, if it can be loaded and fits the product.

    Raises:
        ModelError: there is none, or it does not fit.
    """
    promotions = Promotions(registry, registry.history)
    previous = promotions.previous()
    registry.load_version(settings, previous)
    return promotions.roll_back(to=previous, reason=reason)


def evidence(compared: Compared) -> dict[str, Any]:
    """What the history keeps of a comparison; all of it lies with the challenger's run."""
    ruling = compared.ruling
    numbers = {name: round(getattr(ruling.overall, name), NUMBERS) for name in ("estimate", "low", "high")}
    return {
        "rival": ruling.rival,
        **{name: value if isfinite(value) else None for name, value in numbers.items()},
        "inits": ruling.overall.inits,
        "blocks": ruling.overall.blocks,
        "decision": ruling.decision.value,
        "conditions": {one.name: one.met for one in ruling.conditions},
    }


def _warmed(settings: Settings, wish: Wish) -> Settings:
    if not wish.warm:
        return settings
    training = settings.training.model_copy(update={"warm_start": "champion"})
    return cast("Settings", settings.model_copy(update={"training": training}))


def _champion(settings: Settings, registry: Registry, serving: str | None) -> Network | None:
    """Who serves; one that does not fit the product any more does not.

    Raises:
        DamagedError: its files cannot be read now, which is no reason to do without the comparison.
    """
    if serving is None:
        return None
    try:
        return registry.load_version(settings, serving)
    except DamagedError:
        raise
    except ModelError:
        return None


def _keep_evidence(registry: Registry, held: Held, ruling: Ruling, names: tuple[str, str | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        registry.attach(names[0], write_dossier(held, ruling, names, Path(folder)), FOLDER)
    registry.tag(names[0], RULING, ruling.text[:4000])


def _promoted(promotions: Promotions, compared: Compared) -> Entry:
    reason = "; ".join(compared.ruling.reasons)
    return promotions.promote(compared.version, against=compared.champion, reason=reason, evidence=evidence(compared))


def _settle(promotions: Promotions, outcome: Outcome, compared: Compared, wish: Wish) -> Settled:
    ruling, found = compared.ruling, evidence(compared)
    try:
        if ruling.promotes:
            return Settled(outcome, compared, _promoted(promotions, compared), ruling.reasons)
        if wish.force:
            entry = promotions.promote(
                compared.version, against=compared.champion, reason=wish.reason, evidence=found, forced=True
            )
            return Settled(outcome, compared, entry, (f"by force: {wish.reason}", *ruling.reasons))
    except ChangedError as error:
        entry = promotions.keep(compared.version, reason=str(error), evidence=found)
        return Settled(outcome, compared, entry, (str(error),))
    entry = promotions.keep(compared.version, reason=ruling.text, evidence=found)
    return Settled(outcome, compared, entry, ruling.reasons)


def _uncompared(promotions: Promotions, outcome: Outcome, wish: Wish, error: Exception) -> Settled:
    """No comparison: without force nothing is promoted, as if the evidence were insufficient."""
    registered = outcome.registered
    assert registered is not None
    if wish.force:
        serving = promotions.roles.alias(CHAMPION)
        entry = promotions.promote(registered.version, against=serving, reason=wish.reason, forced=True)
        return Settled(outcome, None, entry, (f"by force: {wish.reason}", str(error)))
    return Settled(outcome, None, promotions.keep(registered.version, reason=str(error)), (str(error),))

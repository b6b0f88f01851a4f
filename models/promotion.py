"""Who serves: promotions that name the champion they were held against, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from models.history import Entry, History, Step
from models.serving import CHAMPION
from pipeline.errors import ModelError

CHALLENGER = "challenger"
PREVIOUS = "previous"
RULING = "cubecast.ruling"
"""Tag of a version: what the gate said of it."""
PROMOTED = "cubecast.promoted"
"""Tag of a version: when it became champion, and why."""
LONGEST_TAG = 4000  # characters; MLflow takes 5000


class ChangedError(ModelError):
    """Another version has become champion since the comparison."""


class Roles(Protocol):
    """Where versions have aliases and tags; see :class:`models.registry.Registry`."""

    def alias(self, name: str) -> str | None:
        """Version that an alias points to; None where there is no such alias."""
        ...

    def set_alias(self, name: str, version: str) -> None:
        """Lets an alias point to a version."""
        ...

    def remove_alias(self, name: str) -> None:
        """Takes an alias away; one that is not there is no fault."""
        ...

    def tag(self, version: str, key: str, text: str) -> None:
        """Notes something with a version."""
        ...


@dataclass(frozen=True, slots=True)
class Promotions:
    """The roles of a product's versions, changed by one at a time, and the record of it.

    The lock lies in the product's workspace: who promotes on two machines shares that, as the cube is shared.

    Attributes:
        roles: where they are kept.
        history: what was done.
    """

    roles: Roles
    history: History

    def challenge(self, version: str) -> None:
        """The newest challenger, which is to be compared."""
        with self.history.alone():
            if self.roles.alias(CHAMPION) != version:
                self.roles.set_alias(CHALLENGER, version)

    def promote(
        self,
        version: str,
        *,
        against: str | None,
        reason: str,
        evidence: Mapping[str, Any] | None = None,
        forced: bool = False,
    ) -> Entry:
        """Makes a version champion, if the champion is still the one that it was held against.

        Args:
            version: which.
            against: champion of the comparison; None: nobody served.
            reason: why.
            evidence: what the comparison came to.
            forced: by a person's word, and not the gate's.

        Raises:
            ChangedError: another one serves by now, or itself.
        """
        with self.history.alone():
            serving = self._serving()
            if serving == version:
                raise ChangedError(
                    f"a version is promoted that does not serve yet, version {version} is champion already"
                )
            if serving != against:
                raise ChangedError(_changed(version, against, serving))
            if serving is not None:
                self.roles.set_alias(PREVIOUS, serving)
            self.roles.set_alias(CHAMPION, version)
            step = Step.FORCED if forced else Step.PROMOTED
            entry = self.history.append(Entry(step, version, serving, version, reason, evidence=evidence or {}))
            if self.roles.alias(CHALLENGER) == version:
                self.roles.remove_alias(CHALLENGER)
            self.roles.tag(version, PROMOTED, f"{entry.time:%Y-%m-%d %H:%M}Z {step}: {reason}"[:LONGEST_TAG])
        return entry

    def keep(self, version: str, *, reason: str, evidence: Mapping[str, Any] | None = None) -> Entry:
        """Notes why a version was not promoted."""
        with self.history.alone():
            serving = self._serving()
            self.roles.tag(version, RULING, reason[:LONGEST_TAG])
            return self.history.append(Entry(Step.KEPT, version, serving, serving, reason, evidence=evidence or {}))

    def previous(self) -> str:
        """The version that a rollback goes back to.

        Raises:
            ModelError: there is none.
        """
        found = self.roles.alias(PREVIOUS)
        if found is None or found == self.roles.alias(CHAMPION):
            msg = (
                f"a rollback goes back to the version with the alias {PREVIOUS!r}, which a promotion sets; there is "
                "none. Name one yourself: cubecast models promote VERSION --force --reason TEXT"
            )
            raise ModelError(msg)
        return found

    def roll_back(self, *, to: str, reason: str) -> Entry:
        """Lets the champion's predecessor serve again; its own predecessor, if it had one, is the next way back.

        Args:
            to: the predecessor, see :meth:`previous`.
            reason: why.

        Raises:
            ChangedError: the predecessor is another one by now.
            ModelError: there is none.
        """
        with self.history.alone():
            serving, found = self._serving(), self.previous()
            if found != to:
                raise ChangedError(f"a rollback goes back to the version that was looked at, {to}, now it is {found}")
            self.roles.set_alias(CHAMPION, to)
            earlier = self.history.came(to)
            if earlier is None or earlier.before in {None, serving, to}:
                self.roles.remove_alias(PREVIOUS)
            else:
                self.roles.set_alias(PREVIOUS, str(earlier.before))
            entry = self.history.append(Entry(Step.ROLLED_BACK, to, serving, to, reason))
            text = f"{entry.time:%Y-%m-%d %H:%M}Z {Step.ROLLED_BACK} from version {serving}: {reason}"
            self.roles.tag(to, PROMOTED, text[:LONGEST_TAG])
        return entry

    def _serving(self) -> str | None:
        """The champion; where somebody has let the alias point elsewhere, that is put on record."""
        serving, known = self.roles.alias(CHAMPION), self.history.champion
        if serving is not None and serving != known:
            reason = "the alias was set on MLflow's page, or by a command that was ended before it could say so"
            self.history.append(Entry(Step.FOUND, serving, known, serving, reason))
        return serving


def _changed(version: str, against: str | None, serving: str | None) -> str:
    was = "no champion" if against is None else f"version {against}"
    now = "there is none" if serving is None else f"version {serving} serves"
    return (
        f"a version is promoted over the champion that it was held against: version {version} was held against {was}, "
        f"but now {now}. Compare again: cubecast models compare {version}"
    )

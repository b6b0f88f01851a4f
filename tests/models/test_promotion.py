from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.history import History, Step
from models.promotion import CHALLENGER, PREVIOUS, PROMOTED, RULING, ChangedError, Promotions
from models.serving import CHAMPION
from pipeline.errors import ModelError

RACER = """
import json, sys, time
from pathlib import Path
from models.history import History
from models.promotion import ChangedError, Promotions

folder, version = Path(sys.argv[1]), sys.argv[2]

class Roles:
    def _all(self):
        return json.loads((folder / "roles.json").read_text())

    def alias(self, name):
        found = self._all().get(name)
        time.sleep(0.2)  # long enough for the other one to read the same
        return found

    def set_alias(self, name, version):
        aside = folder / f"roles-{version}.json"
        aside.write_text(json.dumps(self._all() | {name: version}))
        aside.replace(folder / "roles.json")

    def remove_alias(self, name): ...
    def tag(self, version, key, text): ...

print("ready", flush=True)
sys.stdin.readline()
try:
    Promotions(Roles(), History(folder / "history")).promote(version, against="1", reason="better")
    print("promoted")
except ChangedError as error:
    print(error)
"""


@dataclass
class Roles:
    """Aliases and tags in memory."""

    aliases: dict[str, str] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)

    def alias(self, name: str) -> str | None:
        return self.aliases.get(name)

    def set_alias(self, name: str, version: str) -> None:
        self.aliases[name] = version

    def remove_alias(self, name: str) -> None:
        self.aliases.pop(name, None)

    def tag(self, version: str, key: str, text: str) -> None:
        self.tags[version, key] = text


@pytest.fixture
def promotions(tmp_path: Path) -> Promotions:
    return Promotions(Roles(), History(tmp_path / "promotions"))


def roles(promotions: Promotions) -> dict[str, str]:
    assert isinstance(promotions.roles, Roles)
    return promotions.roles.aliases


def tag(promotions: Promotions, version: str, key: str) -> str:
    assert isinstance(promotions.roles, Roles)
    return promotions.roles.tags[version, key]


def served(promotions: Promotions, *versions: str) -> None:
    for before, version in zip((None, *versions), versions, strict=False):
        promotions.promote(version, against=before, reason=f"{version} is better")


def test_a_promotion_names_the_former_champion_previous_and_takes_the_challengers_role(promotions: Promotions) -> None:
    served(promotions, "1")
    promotions.challenge("2")
    assert roles(promotions) == {CHAMPION: "1", CHALLENGER: "2"}
    entry = promotions.promote("2", against="1", reason="12 % better", evidence={"estimate": -0.12})
    assert roles(promotions) == {CHAMPION: "2", PREVIOUS: "1"}
    assert promotions.history.entries()[-1] == entry
    assert (entry.step, entry.before, entry.champion) == (Step.PROMOTED, "1", "2")
    assert "promoted: 12 % better" in tag(promotions, "2", PROMOTED)


def test_a_version_held_against_another_champion_than_serves_is_not_promoted(promotions: Promotions) -> None:
    served(promotions, "1", "3")
    with pytest.raises(ChangedError, match=r"was held against version 1, but now version 3 .*models compare 2"):
        promotions.promote("2", against="1", reason="better")
    assert roles(promotions)[CHAMPION] == "3"
    assert promotions.history.champion == "3"


def test_what_serves_already_is_not_promoted(promotions: Promotions) -> None:
    served(promotions, "1")
    with pytest.raises(ModelError, match="version 1 is champion already"):
        promotions.promote("1", against="1", reason="again")


def test_of_two_processes_that_end_together_one_promotes(tmp_path: Path) -> None:
    (tmp_path / "roles.json").write_text(json.dumps({CHAMPION: "1"}))
    commands = [[sys.executable, "-c", RACER, str(tmp_path), version] for version in ("2", "3")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for command in commands]  # type: ignore[call-overload]
    for one in racers:
        assert one.stdout.readline() == "ready\n"
    for one in racers:
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate(timeout=60)[0].strip() for one in racers]
    assert [one.returncode for one in racers] == [0, 0]
    assert sum(text == "promoted" for text in said) == 1
    (refused,) = (text for text in said if text != "promoted")
    assert "Compare again" in refused
    winner = ("2", "3")[said.index("promoted")]
    assert json.loads((tmp_path / "roles.json").read_text())[CHAMPION] == winner
    entries = History(tmp_path / "history").entries()
    assert [one.version for one in entries if one.step is Step.PROMOTED] == [winner]


def test_a_rollback_goes_back_one_promotion_at_a_time(promotions: Promotions) -> None:
    served(promotions, "1", "2", "5")
    entry = promotions.roll_back(to=promotions.previous(), reason="rain is overdone")
    assert (entry.step, entry.version, entry.before, entry.reason) == (Step.ROLLED_BACK, "2", "5", "rain is overdone")
    assert roles(promotions) == {CHAMPION: "2", PREVIOUS: "1"}
    promotions.roll_back(to=promotions.previous(), reason="still")
    assert roles(promotions) == {CHAMPION: "1"}
    with pytest.raises(ModelError, match=r"there is none.*models promote VERSION --force"):
        promotions.previous()
    assert "rolled back from version 2: still" in tag(promotions, "1", PROMOTED)


def test_a_rollback_to_another_version_than_was_looked_at_is_refused(promotions: Promotions) -> None:
    served(promotions, "1", "2")
    with pytest.raises(ChangedError, match="looked at, 7, now it is 1"):
        promotions.roll_back(to="7", reason="why")
    assert roles(promotions)[CHAMPION] == "2"


def test_a_version_that_is_kept_has_its_reasons_on_record(promotions: Promotions) -> None:
    served(promotions, "1")
    entry = promotions.keep("2", reason="keep as challenger: no better", evidence={"estimate": 0.01})
    assert promotions.history.entries()[-1] == entry
    assert (entry.step, entry.champion) == (Step.KEPT, "1")
    assert tag(promotions, "2", RULING) == "keep as challenger: no better"


def test_an_alias_that_was_moved_elsewhere_is_put_on_record(promotions: Promotions) -> None:
    served(promotions, "1")
    roles(promotions)[CHAMPION] = "4"
    promotions.promote("5", against="4", reason="better")
    steps = [(one.step, one.version, one.before) for one in promotions.history.entries()]
    assert steps[-2:] == [(Step.FOUND, "4", "1"), (Step.PROMOTED, "5", "4")]

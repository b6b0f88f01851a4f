from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.coverage import Coverage
from pipeline.significance import Verdict
from pipeline.skill import Entry, Skill
from pipeline.skillpage import draw
from pipeline.skilltext import markdown
from pipeline.tally import Tally

LEADS, HORIZON = 4, 4


def tally(error: float, inits: int = 48, seed: int = 0, hits: int = 5) -> Tally:
    """Errors that grow with the lead, on days that are hard or easy for everybody."""
    day = np.exp(np.random.default_rng(5).normal(scale=0.3, size=inits))
    noise = np.exp(np.random.default_rng(seed).normal(scale=0.01, size=(inits, LEADS)))
    means = (error * day[:, None] * np.arange(1, LEADS + 1) * noise)[..., None]
    count = np.full(means.shape, 100)
    events = np.tile(np.array([[hits, 2, 6 - hits]]), (*means.shape, 2, 1))
    return Tally(np.arange(inits), count, 100 * means, 100 * means**2, events)


def study(*entries: Entry, inits: int = 48, bands: int = 1) -> Skill:
    specification = {
        "inits": [f"{index:02d}" for index in range(inits)],
        "seeds": [0, 1],
        "measures": {"absolute": "q50", "squared": "mean", "events": "matched"},
        "bands": [{"name": "rain", "units": "mm"}][:bands],
        "events": [{"thresholds": [0.1, 1.0], "below": False}][:bands],
        "block_slots": HORIZON,
        "cadence_seconds": 300.0,
        "snapshot": "abc",
        "code": {"version": "1", "digest": "d"},
        "peers": False,
    }
    return Skill("Clouds", "0123456789ab", specification, entries)


def small(inits: int = 48) -> Skill:
    return study(
        Entry("persistence", None, (), tally(2.0, inits, 1)),
        Entry("extrapolation", None, (), tally(1.0, inits, 2)),
        *[Entry("whole", seed, (), tally(0.8, inits, 3 + seed), 60.0, 10) for seed in range(2)],
        *[Entry("part", seed, ("whole",), tally(0.9, inits, 5 + seed), 60.0, 10) for seed in range(2)],
        inits=inits,
    )


def test_the_whole_is_measured_against_references_and_each_part_against_its_whole() -> None:
    found = {(one.whole, one.part): one for one in small().comparisons() if one.measure == "MAE"}
    assert set(found) == {("whole", "persistence"), ("whole", "extrapolation"), ("whole", "part")}
    assert found["whole", "extrapolation"].evidence.estimate == pytest.approx(-0.2, abs=0.01)
    assert found["whole", "part"].evidence.verdict is Verdict.LOWER
    assert [(one.better, one.pairs) for one in found.values()] == [(2, 2)] * 3


def test_each_step_of_a_ladder_of_parts_has_its_share_with_and_without_a_gap() -> None:
    def ladder(ending: str, hidden: tuple[int, ...]) -> list[Entry]:
        return [
            Entry(f"still{ending}", None, (f"moved{ending}",), tally(2.0, seed=1), hidden=hidden),
            Entry(f"moved{ending}", None, (f"part{ending}",), tally(1.0, seed=2), hidden=hidden),
            Entry(f"whole{ending}", 0, (), tally(0.8, seed=3), hidden=hidden),
            Entry(f"part{ending}", 0, (f"whole{ending}", "not studied"), tally(0.9, seed=4), hidden=hidden),
        ]

    skill = study(*ladder("", ()), *ladder(" with a gap", (1,)))
    steps = {("whole", "still"), ("whole", "moved"), ("moved", "still"), ("part", "moved"), ("whole", "part")}
    gapped = {(f"{whole} with a gap", f"{part} with a gap") for whole, part in steps}
    found = [(one.whole, one.part) for one in skill.comparisons() if one.measure == "MAE"]
    assert len(found) == len(set(found))
    assert set(found) == steps | gapped
    assert skill.full == "whole"


def test_of_events_more_hits_are_better_and_errors_say_nothing_of_them() -> None:
    skill = study(
        Entry("extrapolation", None, (), tally(1.0, hits=4)),
        *[Entry("whole", seed, (), tally(1.0, seed=seed, hits=5 + seed)) for seed in range(2)],
        *[Entry("part", seed, ("whole",), tally(1.0, seed=seed, hits=1)) for seed in range(2)],
    )
    found = {one.part: one for one in skill.comparisons() if one.measure == "CSI ≥ 0.1"}
    assert found["extrapolation"].evidence.estimate == pytest.approx((5.5 / 8) / (4 / 8) - 1)
    assert (found["extrapolation"].better, found["extrapolation"].pairs) == (2, 2)
    assert found["part"].evidence.verdict is Verdict.HIGHER
    row = next(line for line in markdown(skill).splitlines() if line.startswith("| whole | part | CSI ≥ 1 "))
    assert row.endswith("| better |")


def test_events_that_nobody_saw_or_hit_are_no_evidence_of_anything() -> None:
    never, missed = tally(1.0), tally(1.0, hits=0)
    never.events[...] = 0
    skill = study(
        Entry("extrapolation", None, (), never), Entry("whole", 0, (), tally(1.0)), Entry("part", 0, ("whole",), missed)
    )
    found = [one.evidence for one in skill.comparisons() if not one.of_errors]
    assert {one.verdict for one in found} == {Verdict.INSUFFICIENT}
    assert "nan" not in markdown(skill)


def test_a_difference_that_is_no_more_than_noise_is_not_called_one() -> None:
    same = study(
        *[Entry("whole", seed, (), tally(1.0, 48, seed)) for seed in range(2)],
        *[Entry("part", seed, ("whole",), tally(1.0, 48, 2 + seed)) for seed in range(2)],
    )
    assert same.compare("whole", "part", "MAE", 0).evidence.verdict is Verdict.UNDECIDED


def test_few_init_times_are_insufficient_evidence_in_the_report_beside_the_interval() -> None:
    text = markdown(small(inits=20))
    row = next(line for line in text.splitlines() if line.startswith("| whole | extrapolation | MAE"))
    assert "insufficient evidence" in row
    assert "| 5 |" in row
    assert " to " in row


def test_the_report_says_what_was_compared_and_what_was_left_out() -> None:
    text = markdown(small(), "skill.png")
    assert "0123456789ab" in text
    assert "pysteps is not installed" in text
    assert "MAE of q50, RMSE of mean, CSI of matched" in text
    assert "![skill by lead](skill.png)" in text
    assert text.index("persistence") < text.index("extrapolation") < text.index("| whole")
    heads = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in heads if "CSI" in line or "2 (" in line}) == 1


def test_coverage_is_reported_by_lead_and_where_the_interval_does_not_end_at_the_floor() -> None:
    count, floor, inside = (np.zeros((2, 1, 4), np.int64) for _ in range(3))
    count[0, 0, 0], inside[0, 0, 0] = 100, 70
    count[1, 0, [0, 3]], inside[1, 0, 0], floor[1, 0, 3] = 50, 40, 50  # half of the pixels are rightly said to be dry
    met = Coverage((0.1, 0.5, 0.9), count, floor, inside, np.ones((2, 1)), np.ones((2, 1, 3)))
    text = markdown(study(Entry("whole", 0, (), replace(tally(1.0), coverage=met))))
    assert "70 to 80 % at single leads" in text
    assert "as a closed interval 80 % over all pixels, and 73 % where its upper end is above" in text
    assert "at single leads" not in markdown(small())


def test_the_worst_lead_is_the_one_with_the_largest_ratio() -> None:
    skill = small()
    poor = skill.of("whole")[0].tally
    poor.absolute[:, 2] *= 1.5
    one = study(Entry("extrapolation", None, (), tally(1.0, 48, 2)), Entry("whole", 0, (), poor))
    lead, ratio = one.worst_lead("whole", "extrapolation", 0)
    assert lead == 3
    assert ratio == pytest.approx(0.2, abs=0.01)


def test_what_was_found_survives_json() -> None:
    skill = small()
    again = Skill.from_json(json.loads(json.dumps(skill.to_json())))
    assert again.comparisons() == skill.comparisons()
    assert markdown(again) == markdown(skill)


def test_the_picture_has_both_charts(tmp_path: Path) -> None:
    pixels = imread(draw(small(), tmp_path / "skill.png"))[..., :3]
    ink = (pixels < 0.9).any(axis=2).mean(axis=0)
    left, right = np.array_split(ink, 2)
    assert left.max() > 0.1
    assert right.max() > 0.1


def test_a_part_whose_whole_is_not_trained_is_measured_against_references_itself() -> None:
    alone = study(Entry("extrapolation", None, (), tally(1.0)), Entry("part", 0, ("whole",), tally(0.9)))
    assert {(one.whole, one.part) for one in alone.comparisons()} == {("part", "extrapolation")}


def test_references_alone_are_a_study_too() -> None:
    alone = study(Entry("persistence", None, (), tally(2.0)), Entry("extrapolation", None, (), tally(1.0)))
    assert alone.comparisons() == ()
    assert "| extrapolation |" in markdown(alone)

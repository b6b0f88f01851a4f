from __future__ import annotations

from flows.scoretext import chance_table, event_table, score_table
from pipeline.scoretable import ChanceRow, EventRow, ScoreRow, SkillRow


def row(lead: int, **known: object) -> ScoreRow:
    numbers = dict.fromkeys(
        ("mae", "rmse", "bias", "correlation", "psnr", "ssim", "crps", "revision", "jumpiness", "flip_flop")
    )
    rest = {"skill": {}, "events": (), "reliability": (), "spectrum": {}}
    return ScoreRow(lead, "rain", "mm", "forecast", 3, **numbers | rest | known)  # pyright: ignore[reportArgumentType]


def texts(table: object) -> dict[str, list[str]]:
    return {str(column.header): list(column.cells) for column in table.columns}  # pyright: ignore[reportAttributeAccessIssue]


def test_columns_that_nobody_knows_are_left_out_and_skill_stands_by_reference() -> None:
    skill = {"climatology": SkillRow(0.25, None, None)}
    assert texts(score_table([row(5, bias=-0.5), row(10, correlation=0.91234, skill=skill)])) == {
        "lead": ["+5 min", "+10 min"],
        "bias": ["-0.5", "-"],
        "correlation": ["-", "0.912"],
        "skill, climatology": ["-", "0.25"],
    }


def test_events_have_a_line_each_and_say_on_which_side_they_lie() -> None:
    events = (EventRow(1.0, False, 0.5, 0.75, None, {1: 0.4, 5: 0.6}), EventRow(220.0, True, 0.1, 0.2, 0.3, {}))
    assert texts(event_table([row(5, events=events)])) == {
        "lead": ["+5 min", "+5 min"],
        "event": ["≥ 1", "< 220"],
        "CSI": ["0.5", "0.1"],
        "POD": ["0.75", "0.2"],
        "FAR": ["-", "0.3"],
        "FSS 1 px": ["0.4", "-"],
        "FSS 5 px": ["0.6", "-"],
    }


def test_probabilities_have_a_line_for_each_event() -> None:
    chances = (ChanceRow(0.5, False, 0.0123, 0.4, 0.25, ()), ChanceRow(220.0, True, 0.0, None, 0.0, ()))
    assert texts(chance_table([row(5, chances=chances)])) == {
        "lead": ["+5 min", "+5 min"],
        "probability of": ["≥ 0.5", "< 220"],
        "Brier": ["0.0123", "0"],
        "skill, frequency": ["0.4", "-"],
        "frequency": ["0.25", "0"],
    }

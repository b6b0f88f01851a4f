from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from pipeline.svg import Line, Marks, line_chart, stacked_bars, ticks

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(NUMBERS, NUMBERS)
def test_ticks_enclose_what_is_shown_and_are_few(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 8
    assert found == sorted({*found})


def test_a_chart_is_valid_xml_that_says_names_and_interrupts_lines_where_nothing_is_known() -> None:
    line = Line("a < b", [(0, 0.1), (1, 0.2), (2, None), (3, 0.3), (4, 0.2)])
    text = line_chart("skill & more", [line], Marks({0: "0 min", 4: "<4>"}, [(2, "model 2")], [(1, 3)]))
    root = ET.fromstring(text)
    strokes = [one for one in root.iter("polyline") if one.get("stroke-width") is None]
    assert len(strokes) == 2
    assert {"a < b", "<4>", "model 2"} <= {one.text for one in root.iter("text")}


def test_what_lies_beyond_the_points_does_not_show() -> None:
    line = Line("a", [(0, None), (1, float("nan")), (2, 0.2), (3, 0.3), (4, 0.2), (5, None)])
    uprights = [(0, "model 1"), (3, "model 2"), (5, "model 3")]
    marks = Marks({0: "early", 2: "first", 4: "last", 5: "late"}, uprights, [(0, 1), (1, 3), (5, 6)])
    root = ET.fromstring(line_chart("skill", [line], marks))
    texts = {one.text for one in root.iter("text")}
    assert {"first", "last", "model 2"} <= texts
    assert not {"early", "late", "model 1", "model 3"} & texts
    assert len([one for one in root.iter("rect") if one.get("class") == "s"]) == 1


def test_where_nothing_is_known_there_is_no_chart() -> None:
    assert line_chart("skill", [Line("a", [(0, None)])], Marks({})) == ""
    assert stacked_bars("rungs", {}, []) == ""


def test_bars_fill_the_height() -> None:
    root = ET.fromstring(stacked_bars("rungs", {"5 min": {"a": 0.75, "b": 0.25}}, ["a", "b"]))
    heights = [float(one.get("height", 0)) for one in root.iter("rect")]
    assert heights == [153.0, 51.0]

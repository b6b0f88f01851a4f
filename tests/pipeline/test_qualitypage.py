from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.alarms import DEGRADED, ERROR, Alarm
from pipeline.qualitypage import page, write
from pipeline.qualityreport import Quality, Reign, quality
from tests.pipeline.conftest import CADENCE, ORIGIN
from tests.pipeline.test_qualityreport import known

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pipeline.conftest import Product

ALARM = Alarm(DEGRADED, ERROR, "radar <2>", ORIGIN, ORIGIN + CADENCE, {"worse_by": 0.5}, "train anew")


def with_alarm(found: Quality) -> Quality:
    models = (Reign(ORIGIN, "radar 1"), Reign(ORIGIN + CADENCE, "radar <2>"))
    return replace(found, alarms=(ALARM,), history=(ALARM,), models=models)


def test_a_page_opens_without_a_server_and_asks_nobody(product: Product, tmp_path: Path) -> None:
    text = write(known(product, 0.5, 0.7), tmp_path / "out" / "quality.html").read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(|src=", text)
    assert text.count("<svg") == 6
    assert "No alarm" in text


def test_an_alarm_says_what_to_do_and_names_are_escaped(product: Product) -> None:
    text = page(with_alarm(known(product, 0.5, 0.7)))
    assert "Skill is lost: radar &lt;2&gt;" in text
    assert "train anew" in text
    assert 'class="s"' in text  # the time of the alarm
    assert "<2>" not in text


def test_a_product_without_scores_has_a_page_too(product: Product) -> None:
    text = page(quality(product.settings))
    assert "no run has met its truth yet" in text
    assert "<svg" not in text

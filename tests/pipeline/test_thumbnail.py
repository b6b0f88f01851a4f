from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.catalog import read_run
from pipeline.publishing import publish
from pipeline.thumbnail import GAP, MISSING, MISSING_COLOUR, PAPER, SIDE, panels, thumbnail
from tests.pipeline.published import RUN, a_forecast, an_outlet


def test_three_leads_stand_side_by_side_in_one_colour_scale_and_what_is_missing_is_none_of_its_colours(
    tmp_path: Path,
) -> None:
    run = read_run(publish(a_forecast(leads=5, quantities=("mean", "q50")), RUN, an_outlet(tmp_path), {}))
    assert panels(run) == (5, 15, 25)
    image = Image.open(BytesIO(thumbnail(run)))
    codes = np.asarray(image)
    height, width = 30 * (SIDE // 40), 40 * (SIDE // 40)
    assert codes.shape == (height, 3 * width + 2 * GAP)
    first, last = codes[:, :width], codes[:, -width:]
    assert (first[:6, :9] == MISSING).all()
    assert image.convert("RGB").getpixel((0, 0)) == MISSING_COLOUR
    assert (codes[:, width : width + GAP] == PAPER).all()
    assert first[20, 20] < last[20, 20]  # every value of a later lead is greater


def test_a_run_of_one_lead_is_one_panel(tmp_path: Path) -> None:
    run = read_run(publish(a_forecast(leads=1), RUN, an_outlet(tmp_path), {}))
    assert panels(run) == (5,)
    assert Image.open(BytesIO(thumbnail(run))).width == 40 * (SIDE // 40)

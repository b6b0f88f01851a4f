from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from pipeline.catalog import read_run, runs
from pipeline.forecast import forecast
from pipeline.missed import Shelved, lacking, missed, reach
from pipeline.specs import ForecastSpec
from pipeline.withdrawal import withdraw
from tests.pipeline.conftest import Product
from tests.pipeline.published import INIT
from tests.pipeline.test_forecast import STILL, flag, names, scenes, tuned

SLOT = timedelta(minutes=5)


def lacks(published: Iterable[int], *, withdrawn: Iterable[int] = (), **spec: Any) -> list[int]:
    """Which of slots 0 to 9, all with a scene, are to be made up for before slot 9."""
    shelved = Shelved(*(frozenset(INIT + slot * SLOT for slot in slots) for slots in (published, withdrawn)))
    asked = ForecastSpec.model_validate(spec)
    times = [INIT + slot * SLOT for slot in range(9) if (9 - slot) * SLOT <= reach(asked, SLOT)]
    found = lacking(times, shelved, asked)
    return [int((time - INIT) / SLOT) for time in found]


def test_what_is_missing_is_made_up_for_newest_first() -> None:
    assert lacks([0, 4, 9]) == [8, 7, 6, 5, 3, 2, 1]


def test_it_is_made_up_for_so_far_back() -> None:
    assert lacks([0, 9], catch_up=timedelta(minutes=15)) == [8, 7, 6]
    assert lacks([0, 9], catch_up=timedelta(0)) == []


@pytest.mark.parametrize(("cadence", "back"), [("PT5M", "PT1H"), ("PT1M", "PT1H"), ("PT1H", "PT12H"), ("P5D", "P60D")])
def test_a_slow_product_is_made_up_for_further_back(cadence: str, back: str) -> None:
    """An hour holds no slot of a day."""
    asked = ForecastSpec()
    times = TypeAdapter(timedelta)
    assert reach(asked, times.validate_python(cadence)) == times.validate_python(back)
    assert reach(asked.model_copy(update={"catch_up": 2 * SLOT}), times.validate_python(cadence)) == 2 * SLOT


def test_what_was_withdrawn_is_not_missing() -> None:
    assert lacks([5, 9], withdrawn=[7], catch_up=timedelta(minutes=20)) == [8, 6]


def test_what_was_tidied_away_is_not_missing() -> None:
    assert lacks([7, 8, 9], keep_runs=3) == []
    assert lacks([7, 9], keep_runs=3) == [8]
    assert lacks([9], keep_for=timedelta(minutes=10)) == [8, 7]


# --- on a real shelf ------------------------------------------------------------------------------


@pytest.fixture
def service(make_product: Callable[..., Product]) -> Product:
    """Slots 0 to 5; the scene of slot 3 came as late as two slots."""
    product = make_product(scenes={"available_tag": "AVAILABLE_AT", "firewall": STILL})
    for slot in (0, 1, 2, 4, 5, 3):
        came = product.time(5 if slot == 3 else slot)
        product.scene(slot, flag(), tags={"AVAILABLE_AT": came.isoformat()})
    product.ingest()
    return product


def test_nothing_is_missing_before_the_first_run(service: Product) -> None:
    settings = tuned(service)
    assert missed(settings, service.time(5)) == []
    forecast(settings, None, now=service.time(2))
    assert missed(settings, service.time(5)) == [service.time(4), service.time(3)]


def test_a_hindcast_is_no_beginning(service: Product) -> None:
    settings = tuned(service)
    forecast(settings, None, init=service.time(1))
    forecast(settings, None)
    assert missed(settings, service.time(5)) == []


def test_a_run_that_is_made_up_for_sees_its_scene_however_late_it_came_and_nothing_later(service: Product) -> None:
    settings = tuned(service)
    forecast(settings, None, now=service.time(2))
    forecast(settings, None)
    for init in missed(settings, service.time(5)):
        forecast(settings, None, now=init)
    assert missed(settings, service.time(5)) == []
    found = {run.init: scenes(run.path) for run in runs(settings.paths.forecasts, "tiny")}
    assert found[service.time(3)] == names(service, 1, 2, 3)
    assert set(found) == {service.time(slot) for slot in (2, 3, 4, 5)}


def test_a_withdrawn_run_stays_away(service: Product) -> None:
    settings = tuned(service)
    forecast(settings, None, now=service.time(3))
    run = read_run(forecast(settings, None, now=service.time(4)))
    forecast(settings, None)
    withdraw(settings.paths.forecasts, "tiny", run.run_key, "the lens was wet")
    assert missed(settings, service.time(5)) == []


def test_a_delay_is_no_lack(service: Product) -> None:
    settings = tuned(service, forecast={"delay": timedelta(minutes=7)})
    forecast(settings, None, now=service.time(2) + timedelta(minutes=7))
    forecast(settings, None)
    for init in missed(settings, service.time(5)):
        made = read_run(forecast(settings, None, now=init + settings.forecast.delay))
        assert made.init == init
        assert replace(made, leads={}).scenes[-1].startswith(f"{init:%Y%m%dT%H%M}")

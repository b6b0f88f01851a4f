"""The forecast flow: the newest snapshot and the champion into published GeoTIFFs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.logging import get_run_logger

from flows import verbs
from flows.artifacts import show_forecast
from flows.events import FORECAST_LATE, FORECAST_PUBLISHED, emit
from flows.logs import about
from flows.runs import FLOW, LATER, QUICK
from flows.waiting import give_up
from pipeline.errors import NoCubeError, WithdrawnError
from pipeline.specs import UtcTime
from pipeline.times import parse_time


@task(**QUICK)
def publish_forecast(config: Path, init: datetime | None) -> verbs.Forecasted | None:
    """Makes and publishes one run; None where the newest one is asked for and no scene has come yet."""
    try:
        return verbs.forecast(config, init=init)
    except NoCubeError:
        if init is not None:
            raise
        return None


@task(**QUICK)
def find_missing(config: Path, newest: str) -> tuple[datetime, ...]:
    """Looks for runs that could not be made when their scene came."""
    return verbs.missing(config, newest)


@task(**LATER)
def make_up(config: Path, init: datetime) -> verbs.Forecasted:
    """Makes and publishes a run that is missing; where that fails the next forecast tries again."""
    return verbs.make_up(config, init)


@flow(name="forecast", **FLOW)
def forecast(config: Path, init: UtcTime | None = None) -> str:
    """Publishes the newest forecast run, then those that are missing; the same runs again change nothing.

    Args:
        config: TOML file of the product.
        init: for a hindcast, the init time, UTC; it sees only what was available then. Empty: the newest scene,
            or with ``forecast.issue = "due"`` the newest slot that is due.

    Returns:
        Folder of the newest run; empty where that was withdrawn, or no scene has come yet.
    """
    if init is not None:
        done = publish_forecast(config, init)
        assert done is not None  # a hindcast without a cube is an error
        return _shown(config, done).run
    tried: set[datetime] = set()
    while (newest := _newest(config)) is not None:
        left = [time for time in find_missing(config, newest.init) if time not in tried]
        if not left:
            return newest.run
        tried.add(left[0])
        _make_up(config, left[0])  # one, and then the newest again, which may be another one by then
    return ""


def _newest(config: Path) -> verbs.Forecasted | None:
    """Publishes the newest run, for all who have asked for it so far; None where there is none to publish."""
    began = datetime.now(UTC)
    try:
        done = publish_forecast(config, None)
    except WithdrawnError as error:  # a person has taken it back
        get_run_logger().warning("%s", error)
        return None
    if done is None:
        get_run_logger().info("nothing to forecast from yet: the first scene is to come")
        return None
    _shown(config, done)
    give_up(began)
    return done


def _make_up(config: Path, init: datetime) -> None:
    try:
        _told(config, make_up(config, init))
    except Exception as error:  # noqa: BLE001 - the others are made all the same
        get_run_logger().warning("the run of %s cannot be made up for: %s", f"{init:%Y-%m-%d %H:%M}Z", error)


def _shown(config: Path, done: verbs.Forecasted) -> verbs.Forecasted:
    """Tells of a run, and shows one that was published now on Prefect's pages."""
    _told(config, done)
    if done.fresh:
        show_forecast(config, done.run)
    return done


def _told(config: Path, done: verbs.Forecasted) -> verbs.Forecasted:
    """Tells of a run that was published now; what is wrong with its model is told every time."""
    about(parse_time(done.init))
    if done.warning:
        get_run_logger().warning("forecast by %s: %s", done.model, done.warning)
    if done.fresh:
        product, run = verbs.product_name(config), {"run": done.run, "init": done.init, "model": done.model}
        emit(FORECAST_PUBLISHED, product, run | {"files": done.files})
        if done.late:
            emit(FORECAST_LATE, product, run | {"why": done.late})
    return done

from __future__ import annotations

from pathlib import Path

import pytest

from models.journal import Status
from models.start import Start, begun, fingerprint
from models.trainings import Trainings
from pipeline.config import Settings
from pipeline.errors import ModelError
from pipeline.store import CubeStore
from tests.models.products import again, changed


@pytest.fixture
def product(sky: Settings, tmp_path: Path) -> Settings:
    return changed(sky, tmp_path)


def other(settings: Settings) -> Settings:
    return again(settings, training={**settings.training.model_dump(), "filters": 5})


def start(settings: Settings, how: Start = Start.AUTO, *, snapshot: str = "") -> str:
    """Begins and is interrupted; which training it was."""
    trainings, store = Trainings(settings.paths.trainings), CubeStore(settings.paths.cube)
    made = begun(settings, trainings, store, how)
    with trainings.begin(snapshot, fingerprint(settings)) if snapshot else made as training:
        training.journal.status(Status.RUNNING)
        training.journal.status(Status.KILLED)
    return training.id


def test_the_same_command_goes_on_whatever_was_interrupted_since(product: Settings) -> None:
    first, second = start(product), start(other(product))
    assert first != second
    assert start(product) == start(product, Start.RESUME) == first
    assert start(other(product)) == second
    assert start(product, Start.FRESH) not in {first, second}


def test_a_training_of_a_snapshot_that_is_gone_hides_no_other(product: Settings) -> None:
    first = start(product)
    start(product, snapshot="0123456789AB0123456G")
    assert start(product, Start.RESUME) == start(product) == first


def test_what_cannot_go_on_says_why(product: Settings) -> None:
    with pytest.raises(ModelError, match="there is none"):
        start(product, Start.RESUME)
    start(other(product))
    with pytest.raises(ModelError, match=r"were others.*--fresh"):
        start(product, Start.RESUME)
    start(product, Start.FRESH, snapshot="0123456789AB0123456G")
    with pytest.raises(ModelError, match=r"the cube has lost 0123456789AB0123456G.*--fresh"):
        start(product, Start.RESUME)


def test_the_same_training_runs_once_at_a_time(product: Settings) -> None:
    trainings, store = Trainings(product.paths.trainings), CubeStore(product.paths.cube)
    with begun(product, trainings, store, Start.AUTO) as training:
        with pytest.raises(ModelError, match=f"{training.id} does already: wait for its end"):
            begun(product, trainings, store, Start.AUTO)
        with (
            begun(product, trainings, store, Start.FRESH) as beside,
            begun(other(product), trainings, store, Start.AUTO),
        ):
            assert beside.id != training.id


def test_how_often_checkpoints_are_kept_decides_nothing(product: Settings) -> None:
    rarely = again(product, training={**product.training.model_dump(), "checkpoint": "PT1H"})
    assert fingerprint(rarely) == fingerprint(product) != fingerprint(other(product))
    daily = again(product, covariates={"time_of_day": True})
    assert fingerprint(daily) != fingerprint(product)

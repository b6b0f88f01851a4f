"""Where a training begins: anew, or where an interrupted one of the same settings and data was left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from enum import StrEnum
from importlib.metadata import version

import keras

from models.trainings import Training, Trainings
from pipeline.config import Settings
from pipeline.covariates import covariates_of
from pipeline.errors import ModelError, StoreError
from pipeline.store import CubeStore

FINGERPRINT_LENGTH = 16


class Start(StrEnum):
    """Where a training begins."""

    AUTO = "auto"  # an interrupted one of the same settings and the same snapshot goes on; else a new one
    RESUME = "resume"  # the newest interrupted one goes on, on its own snapshot
    FRESH = "fresh"


def begun(settings: Settings, trainings: Trainings, store: CubeStore, start: Start) -> AbstractContextManager[Training]:
    """The training to work on, ours as long as its block runs.

    Raises:
        ModelError: none can go on, or the same one runs already.
        StoreError: there is no cube.
    """
    mine, newest = fingerprint(settings), store.tip()
    left = trainings.interrupted()
    if start is Start.RESUME:
        return trainings.resume(_resumable(left, mine, store).id)
    if start is Start.AUTO:
        _refuse_a_twin(trainings, mine, newest)
        same = [one for one in left if (one.fingerprint, one.snapshot) == (mine, newest)]
        if same:
            return trainings.resume(same[0].id)
    return trainings.begin(newest, mine)


def _resumable(left: Sequence[Training], mine: str, store: CubeStore) -> Training:
    """The newest interrupted training of these settings whose snapshot is still there."""
    same = [one for one in left if one.fingerprint == mine]
    for one in same:
        with suppress(StoreError):
            store.group(one.snapshot)
            return one
    if not left:
        msg = "only an interrupted training can go on, there is none: start one with cubecast train"
    elif not same:
        msg = (
            f"a training goes on with the settings that it began with, but those of {left[0].id} were others: "
            "put the configuration back, or begin anew with --fresh"
        )
    else:
        msg = f"a training goes on with the data that it began with, but the cube has lost {same[0].snapshot}: --fresh"
    raise ModelError(msg)


def _refuse_a_twin(trainings: Trainings, mine: str, newest: str) -> None:
    for one in trainings.all():
        if (one.fingerprint, one.snapshot) == (mine, newest) and one.alive:
            msg = (
                f"one training of the same settings and snapshot runs at a time, {one.id} does already: wait for its "
                "end (cubecast tracking status)"
            )
            raise ModelError(msg)


def fingerprint(settings: Settings) -> str:
    """A hash of all that decides what a training of a snapshot comes to: settings, static layers, code, backend."""
    include = {"samples", "motion", "training", "bands", "grid"}
    parts = settings.model_dump(mode="json", include=include, exclude={"training": {"checkpoint"}})
    told = covariates_of(settings).digest
    text = json.dumps([version("cubecast"), keras.config.backend(), told, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]

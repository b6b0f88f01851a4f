"""The only module that knows MLflow: it is told about trainings, models are registered in it and found again."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import serving
from models.delivery import CARD_FOLDER, Number, RefusedError, deliver
from models.history import Entry, History, Step
from models.journal import CARD, Status
from models.keepsake import Files, Keepsake, Version
from models.production import Production
from models.serving import CHAMPION, Served, readable
from models.suitability import check_fit
from models.trainings import Registered, Training
from pipeline.config import Settings
from pipeline.durable import locked
from pipeline.errors import ModelError, ServiceError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

    from models.prediction import Card, Network
    from pipeline.rungs import Champion

__all__ = ["Listed", "Registered", "Registry", "open_registry", "tracking_uri"]

MODEL = "model"
MODEL_PLACE = "data/model.keras"  # in MLflow's form of a Keras model
HASH = "cubecast.sha256."
"""Tags of a model version: the sha256 of each of its files."""
SNAPSHOT = "cubecast.snapshot"
"""Tag of a run: the snapshot of the cube that it learns from."""
TAG = "cubecast.training"
"""Tag of a run: the training's id. By it a run is found whose making was not noted."""

PRODUCTION = "cubecast.production"
"""Tag of the run that scores of published forecasts are told to: the product's name."""

# A dead tracking server blocks for minutes at MLflow's defaults; models are loaded without pickle; nothing phones home.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is the command's
}
SERVING_PATIENCE = 45.0  # seconds that a forecast waits for a server: its copy of the champion is as good
LOCAL_PATIENCE, REMOTE_PATIENCE = 300.0, 30.0  # seconds: a database is slow at most, a server may hang
BATCH_METRICS, BATCH_PARAMETERS = 1000, 100  # of one request, https://mlflow.org/docs/latest/rest-api.html#log-batch
REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_DOES_NOT_EXIST",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
}


def tracking_uri(settings: Settings) -> str:
    """The configured address, or SQLite in the workspace."""
    return settings.tracking.uri or f"sqlite:///{settings.paths.mlflow / 'mlflow.db'}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A model version as MLflow has it.

    Attributes:
        version: its number.
        created: when, UTC.
        run: id of the run that made it.
        aliases: its roles.
        tags: what was noted with it.
        snapshot: of the cube that it learned from; empty: not known.
        metrics: the last value of each number of its run.
    """

    version: str
    created: datetime
    run: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    snapshot: str
    metrics: Mapping[str, float]


class Registry:
    """Runs and models of one product. MLflow is asked on first use, not before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.uri = tracking_uri(settings)
        self.model_name = settings.product.name
        self._folder = settings.paths.mlflow
        self._keepsake = Keepsake(settings.paths.champion)
        self._asked: serving.Asked | None = None
        self._experiment_name = settings.tracking.experiment or settings.product.name
        self.history = History(settings.paths.promotions)

    @property
    def local(self) -> bool:
        """Whether it is a database on this machine's disk."""
        return self.uri.startswith("sqlite:")

    @property
    def patience(self) -> float:
        """Seconds that a finished training waits for its delivery at most."""
        return LOCAL_PATIENCE if self.local else REMOTE_PATIENCE

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client."""
        import mlflow

        if self.local:
            self._folder.mkdir(parents=True, exist_ok=True)
        return mlflow.MlflowClient(self.uri)

    @cached_property
    def experiment(self) -> str:
        """Id of the product's experiment, which is made where there is none."""
        from mlflow.exceptions import MlflowException

        name = self._experiment_name
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # a server decides for itself where artifacts go
            place = (self._folder / "artifacts" / name).as_uri() if self.local else None
            try:
                return self.client.create_experiment(name, place)
            except MlflowException:  # somebody else was faster
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    def connect(self) -> None:
        """Makes sure that MLflow answers.

        Raises:
            ServiceError: it does not.
        """
        with _answering(self.uri):
            _ = self.experiment

    def expect_model(self) -> None:
        """Imports what a model's delivery needs, before a thread does it beside a training that imports, too."""
        _keras_flavour()

    def deliver(self, training: Training) -> None:
        """Tells MLflow what it does not know of a training; in it stands each thing once, whatever broke off before.

        Raises:
            RefusedError: MLflow does not take it.
            ServiceError: MLflow does not answer; what it took is noted.
        """
        if not training.waiting:
            return
        model_waits = training.has_model_waiting
        with locked(training.delivery_lock), _answering(self.uri):
            deliver(_Desk(self), training)
        registered = training.delivered.registered
        if model_waits and registered is not None and registered.champion:
            self._keep(training, registered)

    def tell(self, production: Production) -> int:
        """Tells MLflow the scores of published forecasts that it does not know; returns how many numbers.

        Raises:
            RefusedError: MLflow does not take them.
            ServiceError: MLflow does not answer; what it took is noted.
        """
        production.lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(production.lock), _answering(self.uri):
            return production.send(_Desk(self))

    def champion_version(self) -> str | None:
        """Version of the champion, or None."""
        entry = self._entry(None)
        return None if entry is None else str(entry.version)

    def champion_serves(self) -> bool:
        """Whether there is a champion that fits the product as it is configured; another one may take its place.

        Raises:
            MlflowException: MLflow does not answer.
        """
        version = self.champion_version()
        if version is None:
            return False
        try:
            check_fit(self._card(version), self._settings, f"version {version}")
        except (ModelError, KeyError, TypeError, ValueError):
            return False
        except OSError as error:
            if "No such artifact" in str(error):
                return False
            raise
        return True

    def serve(self, settings: Settings) -> Served:
        """The champion from MLflow, or the copy that is kept here; see :func:`models.serving.serve`."""
        return serving.serve(settings, self._asked or self)

    def glimpse(self, settings: Settings) -> Champion | None:
        """See :func:`models.serving.glimpse`; :meth:`serve` then goes by what MLflow has answered."""
        self._asked = serving.Asked(self)
        return serving.glimpse(settings, self._asked)

    def load_champion(self, settings: Settings) -> Network | None:
        """The champion; None where there is none.

        Raises:
            ModelError: it was trained for other bands or another context or a shorter horizon than configured, or it
                cannot be read, and neither can the copy that is kept here.
            ServiceError: MLflow does not answer, and no copy is kept.
        """
        return serving.champion(settings, self).network

    def load_version(self, settings: Settings, version: str) -> Network:
        """Any version of the product's model, champion or not.

        Raises:
            ModelError: as :meth:`load_champion`, or there is no such version.
            ServiceError: as :meth:`load_champion`.
        """
        return serving.version(settings, self, version)

    @property
    def answer_within(self) -> float | None:
        """Seconds that a forecast waits for its model; a database on this disk, left alone half made, would be none."""
        if self.local:
            return None
        deadline = self._settings.forecast.deadline
        return SERVING_PATIENCE if deadline is None else min(SERVING_PATIENCE, deadline.total_seconds() / 3)

    def find(self, number: str | None) -> Version | None:
        """A version of the product's model, or the champion; None where there is none.

        Raises:
            ServiceError: MLflow does not answer.
        """
        with _heard(self.uri):
            entry = self._entry(number)
        if entry is None:
            return None
        tags = entry.tags or {}
        hashes = {key.removeprefix(HASH): text for key, text in tags.items() if key.startswith(HASH)}
        return Version(self.model_name, str(entry.version), str(entry.run_id), hashes)

    def fetch(self, version: Version) -> Files:
        """The files of a version.

        Raises:
            DamagedError: they cannot be had.
        """
        from mlflow.artifacts import download_artifacts

        with readable(str(version)), tempfile.TemporaryDirectory() as folder:
            card = self.client.download_artifacts(version.run, f"{CARD_FOLDER}/{CARD}", folder)
            place = f"models:/{version.name}/{version.number}/{MODEL_PLACE}"
            model = download_artifacts(place, dst_path=folder, tracking_uri=self.uri, registry_uri=self.uri)
            return Files(version, Path(card).read_bytes(), Path(model).read_bytes())

    def alias(self, name: str) -> str | None:
        """Version that an alias points to; None where there is no such alias.

        Raises:
            ServiceError: MLflow does not answer.
        """
        with _heard(self.uri):
            return self._aliases().get(name)

    def set_alias(self, name: str, version: str) -> None:
        """Lets an alias point to a version."""
        with _heard(self.uri):
            self.client.set_registered_model_alias(self.model_name, name, version)

    def remove_alias(self, name: str) -> None:
        """Takes an alias away; one that is not there is no fault."""
        with _heard(self.uri):
            if name in self._aliases():
                self.client.delete_registered_model_alias(self.model_name, name)

    def tag(self, version: str, key: str, text: str) -> None:
        """Notes something with a version."""
        with _heard(self.uri):
            self.client.set_model_version_tag(self.model_name, version, key, text)

    def attach(self, version: str, paths: Sequence[Path], folder: str) -> None:
        """Files for the run that made a version; they take the place of those of the same name."""
        with _heard(self.uri):
            run = str(self.client.get_model_version(self.model_name, version).run_id)
            for path in paths:
                self.client.log_artifact(run, str(path), folder)

    def listed(self, version: str | None = None) -> tuple[Listed, ...]:
        """Every version, newest first; or the one of a number, if there is one.

        Raises:
            ServiceError: MLflow does not answer.
        """
        with _heard(self.uri):
            aliases = self._aliases()
            found = self.client.search_model_versions(f"name = '{self.model_name}'")
            wanted = [one for one in found if version is None or str(one.version) == version]
            newest = sorted(wanted, key=lambda one: int(one.version), reverse=True)
            return tuple(self._listed(one, aliases) for one in newest)

    def _listed(self, entry: ModelVersion, aliases: Mapping[str, str]) -> Listed:
        number, run = str(entry.version), self.client.get_run(str(entry.run_id))
        created = datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC)
        roles = tuple(sorted(name for name, version in aliases.items() if version == number))
        tags, snapshot = dict(entry.tags or {}), run.data.tags.get(SNAPSHOT, "")
        return Listed(number, created, run.info.run_id, roles, tags, snapshot, dict(run.data.metrics))

    def _aliases(self) -> dict[str, str]:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_registered_model(self.model_name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {name: str(version) for name, version in found.items()}

    def _entry(self, number: str | None) -> ModelVersion | None:
        """MLflow's own words on a version, or on the champion."""
        from mlflow.exceptions import MlflowException

        try:
            if number is None:
                return self.client.get_model_version_by_alias(self.model_name, CHAMPION)
            return self.client.get_model_version(self.model_name, number)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def _card(self, version: str) -> Card:
        from models.prediction import Card

        entry = self.client.get_model_version(self.model_name, version)
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(str(entry.run_id), f"{CARD_FOLDER}/{CARD}", folder)
            return Card.from_json(json.loads(Path(path).read_text(encoding="utf-8")))

    def _keep(self, training: Training, registered: Registered) -> None:
        """Lays a new champion aside at once, for an outage before its first forecast; that can be done later, too."""
        journal, made = training.journal, Version(registered.name, registered.version, registered.run_id)
        try:
            self._keepsake.keep(Files(made, journal.card_file.read_bytes(), journal.model_file.read_bytes()))
        except OSError as error:
            logging.getLogger("cubecast.tracking").warning("%s is not kept on this machine: %s", made, error)


class _Desk:
    """MLflow's calls; see :class:`models.delivery.Desk`."""

    def __init__(self, registry: Registry) -> None:
        self._client = registry.client
        self._experiment = registry.experiment
        self._model_name = registry.model_name
        self._history = registry.history
        self.champion_version = registry.champion_version
        self.champion_serves = registry.champion_serves

    def stage(self, run: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return ""
            raise

    def runs(self, training: Training) -> list[str]:
        found = self._client.search_runs([self._experiment], f"tags.`{TAG}` = '{training.id}'")
        return [run.info.run_id for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))]

    def make_run(self, training: Training, name: str) -> str:
        started = int(training.started.timestamp() * 1000)
        tags = {TAG: training.id, SNAPSHOT: training.snapshot}
        return self._client.create_run(self._experiment, started, tags, run_name=name).info.run_id

    def production_run(self) -> str:
        found = self._client.search_runs([self._experiment], f"tags.`{PRODUCTION}` = '{self._model_name}'")
        runs = sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        if runs:
            return runs[0].info.run_id
        tags = {PRODUCTION: self._model_name}
        return self._client.create_run(self._experiment, tags=tags, run_name="production").info.run_id

    def delete_run(self, run: str) -> None:
        self._client.delete_run(run)

    def log_metrics(self, run: str, metrics: Sequence[Number]) -> None:
        from mlflow.entities import Metric

        entities = [Metric(one.key, one.value, one.time, one.step) for one in metrics]
        for first in range(0, len(entities), BATCH_METRICS):
            self._client.log_batch(run, metrics=entities[first : first + BATCH_METRICS])

    def log_parameters(self, run: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, text) for key, text in values.items()]
        for first in range(0, len(entities), BATCH_PARAMETERS):
            self._client.log_batch(run, params=entities[first : first + BATCH_PARAMETERS])

    def set_tag(self, run: str, key: str, text: str) -> None:
        self._client.set_tag(run, key, text)

    def log_artifact(self, run: str, path: Path, folder: str) -> None:
        self._client.log_artifact(run, str(path), folder)

    def set_status(self, run: str, status: Status, time: int) -> None:
        if status is Status.RUNNING:
            self._client.update_run(run, status)
        else:
            self._client.set_terminated(run, status, time)

    def log_model(self, run: str, path: Path) -> str:
        """One whose upload broke off is taken up again."""
        from mlflow.entities import LoggedModelOutput

        found = self._logged_models(run)
        model = found[0] if found else self._client.create_logged_model(self._experiment, MODEL, run)
        outputs = self._client.get_run(run).outputs
        if model.model_id not in [one.model_id for one in (outputs.model_outputs if outputs else ())]:
            self._client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
        if not _is_whole(model):
            self._upload(model, run, path)
        return model.model_id

    def _logged_models(self, run: str) -> list[LoggedModel]:
        """Of the run, those that are whole first, then the oldest."""
        found = self._client.search_logged_models([self._experiment], f"source_run_id = '{run}'")
        return sorted(found, key=lambda one: (not _is_whole(one), one.creation_timestamp, one.model_id))

    def _upload(self, model: LoggedModel, run: str, path: Path) -> None:
        from mlflow.models import Model

        place, key = model.artifact_location, model.model_id
        form = Model(artifact_path=place, model_uuid=key, run_id=run, model_id=key)
        with tempfile.TemporaryDirectory() as aside:
            folder = str(Path(aside) / MODEL)
            _keras_flavour().save_model(_Saved(path), folder, mlflow_model=form, pip_requirements=_requirements())
            self._client.log_model_artifacts(key, folder)
        self._client.finalize_logged_model(key, "READY")

    def versions(self, run: str) -> list[str]:
        found = self._client.search_model_versions(f"name = '{self._model_name}' and run_id = '{run}'")
        return [str(number) for number in sorted(int(one.version) for one in found)]

    def make_version(self, run: str, model: str, hashes: Mapping[str, str]) -> Registered:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self._model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(self._model_name)
        # a server takes no uri without the id
        tags = {f"{HASH}{name}": value for name, value in hashes.items()}
        made = self._client.create_model_version(self._model_name, f"models:/{model}", run, tags, model_id=model)
        return Registered(self._model_name, str(made.version), run, champion=False)

    def registered(self, run: str, version: str, *, promote: bool) -> Registered:
        if promote:
            self._serve_first(version)
        return Registered(self._model_name, version, run, self.champion_version() == version)

    def _serve_first(self, version: str) -> None:
        """Nobody serves: who comes first does, and of two that end together one."""
        with self._history.alone():
            if self.champion_serves():
                return
            before = self.champion_version()
            self._client.set_registered_model_alias(self._model_name, CHAMPION, version)
            reason = "it beats the baselines, and no champion serves"
            self._history.append(Entry(Step.FIRST, version, before, version, reason))

    def delete_model_doubles(self, run: str, kept: str) -> None:
        for version in self.versions(run):
            if version != kept:
                self._client.delete_model_version(self._model_name, version)
        for model in self._logged_models(run)[1:]:
            self._client.delete_logged_model(model.model_id)


def _is_whole(model: LoggedModel) -> bool:
    return str(model.status) == "READY"


class _Saved:
    """A model's file, for MLflow to copy: to load and save it again would draw from the seeds of a running training."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, path: str) -> None:
        """Copies it, byte for byte."""
        shutil.copyfile(self._path, path)


def open_registry(settings: Settings, *, now: bool = True) -> Registry:
    """Where the product's trainings are recorded and its models registered.

    Args:
        settings: of the product.
        now: make sure that MLflow answers; otherwise it is asked on first use.

    Raises:
        ServiceError: the tracking server does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of every retry
    registry = Registry(settings)
    mlflow.set_tracking_uri(registry.uri)
    mlflow.set_registry_uri(registry.uri)
    if now:
        registry.connect()
    return registry


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Faults of MLflow as a sentence."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in REFUSALS:
            raise RefusedError(f"MLflow at {uri} does not take a record: {_first_line(error)}") from error
        raise _silent(uri, error) from None
    except OSError as error:
        raise _silent(uri, error) from None


@contextmanager
def _heard(uri: str) -> Iterator[None]:
    """Whatever hinders an answer, a broken database too, as a sentence."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a database that is none raises errors of SQLAlchemy's and SQLite's own
        raise _silent(uri, error) from None


def _silent(uri: str, error: Exception) -> ServiceError:
    msg = f"MLflow at {uri} does not answer: {_first_line(error)}. Start it, or mend tracking.uri (empty: SQLite here)"
    return ServiceError(msg)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _keras_flavour() -> Any:
    """MLflow's Keras module, without the warning about MLflow's own type hints that its first use prints."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
        importlib.import_module("mlflow.pyfunc")
    return importlib.import_module("mlflow.keras")


def _requirements() -> list[str]:
    """What a consumer needs to load the model; given, because guessing it takes MLflow half a minute."""
    from importlib.metadata import version

    return [f"keras=={version('keras')}", f"cubecast=={version('cubecast')}"]

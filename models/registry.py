"""The only module that knows MLflow: where runs are recorded, models registered, and the champion found again."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Settings
from pipeline.errors import ModelError, ServiceError
from pipeline.forecast import forecast_bands
from pipeline.record import ModelRef

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models.model import ModelInfo

    from models.prediction import Card, Network

CHAMPION = "champion"
CARD = "card.json"
CARD_FOLDER = "card"
MODEL = "model"

# A dead tracking server blocks for minutes at MLflow's defaults; models are loaded without pickle; nothing phones home.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True, slots=True)
class Registered:
    """A model version in the registry."""

    name: str
    version: str
    run_id: str
    champion: bool


def tracking_uri(settings: Settings) -> str:
    """The configured address, or SQLite in the workspace."""
    return settings.tracking.uri or f"sqlite:///{settings.paths.mlflow / 'mlflow.db'}"


@dataclass(frozen=True, slots=True)
class Registry:
    """Runs and models of one product."""

    client: MlflowClient
    experiment: str
    model_name: str

    @contextmanager
    def run(self, name: str) -> Iterator[MlflowTracker]:
        """One training run; its status tells how it ended."""
        made = self.client.create_run(self.experiment, run_name=name)
        tracker = MlflowTracker(self.client, made.info.run_id)
        try:
            yield tracker
        except BaseException:
            self.client.set_terminated(made.info.run_id, "FAILED")
            raise
        self.client.set_terminated(made.info.run_id, "FINISHED")

    def register(self, tracker: MlflowTracker, model: Any, card: Card, *, good: bool) -> Registered:
        """Logs a network with its card and registers it; the first good one becomes champion."""
        import mlflow

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / CARD
            path.write_text(json.dumps(card.to_json(), indent=2) + "\n", encoding="utf-8")
            tracker.artifact(path, CARD_FOLDER)
        mlflow.start_run(run_id=tracker.run_id)  # log_model knows no other way to name the run
        try:
            logged = _keras_flavour().log_model(model, name=MODEL, pip_requirements=_requirements())
        finally:
            mlflow.end_run(status="RUNNING")
        version = self._new_version(logged, tracker.run_id)
        promoted = good and self.champion_version() is None
        if promoted:
            self.client.set_registered_model_alias(self.model_name, CHAMPION, version)
        return Registered(self.model_name, version, tracker.run_id, promoted)

    def _new_version(self, logged: ModelInfo, run_id: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_registered_model(self.model_name)
        except MlflowException:
            self.client.create_registered_model(self.model_name)
        made = self.client.create_model_version(
            self.model_name,
            logged.model_uri,
            run_id=run_id,
            model_id=logged.model_id,  # a server takes no uri without
        )
        return str(made.version)

    def champion_version(self) -> str | None:
        """Version of the champion, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(self.model_name, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def load_champion(self, settings: Settings) -> Network | None:
        """The champion; None where there is none.

        Raises:
            ModelError: it was trained for other bands or another context or a shorter horizon than configured, or it
                cannot be read.
        """
        version = self.champion_version()
        if version is None:
            return None
        from models.prediction import Network  # Keras and TensorFlow, 13 CPU-seconds: only where there is a champion

        what = f"{self.model_name} version {version}"
        with _readable(what):
            card = self._card(version)
        _check_fit(card, settings, what)
        with _readable(what):
            return Network(self._model(version), card, ModelRef(self.model_name, version, "network"))

    def _card(self, version: str) -> Card:
        from models.prediction import Card

        entry = self.client.get_model_version(self.model_name, version)
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(str(entry.run_id), f"{CARD_FOLDER}/{CARD}", folder)
            return Card.from_json(json.loads(Path(path).read_text(encoding="utf-8")))

    def _model(self, version: str) -> Any:
        return _keras_flavour().load_model(f"models:/{self.model_name}/{version}")


@dataclass(frozen=True, slots=True)
class MlflowTracker:
    """A training's record in MLflow; see :class:`models.training.Tracker`."""

    client: MlflowClient
    run_id: str

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Settings and facts that hold for the whole run."""
        from mlflow.entities import Param

        self.client.log_batch(self.run_id, params=[Param(key, str(value)[:5000]) for key, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at an epoch or a lead; infinities and NaN are left out, MLflow keeps them as huge numbers."""
        import math
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        kept = [Metric(key, float(value), now, step) for key, value in values.items() if math.isfinite(value)]
        self.client.log_batch(self.run_id, metrics=kept)

    def artifact(self, path: Path, folder: str) -> None:
        """A file to keep."""
        self.client.log_artifact(self.run_id, str(path), folder)


def open_registry(settings: Settings) -> Registry:
    """Connects to MLflow and finds or makes the product's experiment.

    Raises:
        ServiceError: the tracking server does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(settings)
    if uri.startswith("sqlite:"):
        settings.paths.mlflow.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client = mlflow.MlflowClient(uri)
    name = settings.tracking.experiment or settings.product.name
    try:
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name, _artifacts(settings, uri, name))
    except MlflowException as error:
        msg = f"MLflow at {uri} does not answer: {error}. Start it, or mend tracking.uri (empty: SQLite here)"
        raise ServiceError(msg) from None
    return Registry(client, experiment, settings.product.name)


def _artifacts(settings: Settings, uri: str, name: str) -> str | None:
    """Beside the database; a server decides for itself."""
    if not uri.startswith("sqlite:"):
        return None
    return (settings.paths.mlflow / "artifacts" / name).as_uri()


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


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Faults of a model's files as a sentence."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        msg = (
            f"a champion's files can be read, but those of {what} cannot: {reason}. Restore MLflow's files, let the "
            f"alias {CHAMPION!r} point to another version, or remove the alias and train again"
        )
        raise ModelError(msg) from error


def _check_fit(card: Card, settings: Settings, what: str) -> None:
    bands = tuple(band.name for band in settings.bands)
    if card.bands != bands:
        msg = f"a model serves the bands it was trained on: {what} knows {card.bands}, configured {bands}. Train again."
        raise ModelError(msg)
    known, asked = card.network, settings.samples
    if known.bands_out != forecast_bands(settings):
        said, wanted = ([bands[index] for index in which] for which in (known.bands_out, forecast_bands(settings)))
        msg = f"{what} forecasts the bands {said}, configured are {wanted}: train again"
        raise ModelError(msg)
    if known.horizon < asked.horizon or known.context_frames != asked.context_frames:
        msg = (
            f"{what} sees {known.context_frames} frames and forecasts {known.horizon} slots ahead; "
            f"samples.context_frames is {asked.context_frames}, samples.horizon {asked.horizon}. Train again."
        )
        raise ModelError(msg)

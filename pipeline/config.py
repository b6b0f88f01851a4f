"""One TOML file a product, validated at the edge; each part below gets only its own spec.

Every value can be overridden from the environment: ``CUBECAST_TRAINING__EPOCHS=3`` for ``[training] epochs``.
Relative paths are relative to the configuration file.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from pipeline.bounds import valid_ranges
from pipeline.errors import ConfigError
from pipeline.grid import window_of
from pipeline.specs import (
    AxisSpec,
    BandSpec,
    CovariateSpec,
    ForecastSpec,
    GridSpec,
    ModelSpec,
    MotionSpec,
    ProductSpec,
    SampleSpec,
    SceneSpec,
    ServiceSpec,
    StoreSpec,
    TrackingSpec,
    TrainingSpec,
    VerificationSpec,
)


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders that belong to one product."""

    root: Path

    @property
    def cube(self) -> Path:
        """The Icechunk repository."""
        return self.root / "cube"

    @property
    def ledger(self) -> Path:
        """SQLite database: what became of every file."""
        return self.root / "ledger.sqlite"

    @property
    def quarantine(self) -> Path:
        """Refused scenes, each beside a note."""
        return self.root / "quarantine"

    @property
    def forecasts(self) -> Path:
        """Published runs."""
        return self.root / "forecasts"

    @property
    def verification(self) -> Path:
        """Scores of published runs."""
        return self.root / "verification"

    @property
    def logs(self) -> Path:
        """What flow runs and servers said."""
        return self.root / "logs"

    @property
    def alarms(self) -> Path:
        """When skill was lost and when it came back, a line each."""
        return self.root / "alarms.jsonl"

    @property
    def told(self) -> Path:
        """When alarms that stand were last told to who listens."""
        return self.root / "alarms-told.json"

    @property
    def cache(self) -> Path:
        """What can be made again: aligned training frames."""
        return self.root / "cache"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts, where no server is configured."""
        return self.root / "mlflow"

    @property
    def champion(self) -> Path:
        """The last champion, for when MLflow is away."""
        return self.root / "champion"

    @property
    def trainings(self) -> Path:
        """A folder a training: its checkpoints, and what MLflow is to be told."""
        return self.root / "trainings"

    @property
    def promotions(self) -> Path:
        """Which version became champion when and why, and the lock of whoever changes that."""
        return self.root / "promotions"


class Settings(BaseSettings):
    """The whole configuration of one product."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="CUBECAST_", env_nested_delimiter="__", str_strip_whitespace=True
    )

    workspace: Path = Field(description="Folder for everything that cubecast writes for this product")
    product: ProductSpec
    scenes: SceneSpec
    bands: tuple[BandSpec, ...] = Field(min_length=1)
    grid: GridSpec
    axis: AxisSpec
    store: StoreSpec = StoreSpec()
    samples: SampleSpec = SampleSpec()
    motion: MotionSpec = MotionSpec()
    covariates: CovariateSpec = CovariateSpec()
    training: TrainingSpec = TrainingSpec()
    forecast: ForecastSpec = ForecastSpec()
    verification: VerificationSpec = VerificationSpec()
    models: ModelSpec = ModelSpec()
    tracking: TrackingSpec = TrackingSpec()
    services: ServiceSpec = ServiceSpec()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [band.name for band in self.bands]
        if len(set(names)) < len(names):
            msg = f"band names are unique, found {names}"
            raise ValueError(msg)
        if not any(band.forecast for band in self.bands):
            msg = "at least one band has forecast = true"
            raise ValueError(msg)
        if self.motion.band > len(self.bands):
            msg = f"motion.band is one of the {len(self.bands)} bands, found {self.motion.band}"
            raise ValueError(msg)
        if self.samples.max_age < self.samples.context_frames - 1:
            least = self.samples.context_frames - 1
            msg = f"samples.max_age holds the context: at least {least}, found {self.samples.max_age}"
            raise ValueError(msg)
        if self.training.chip % self.training.patch:
            msg = f"training.chip is a multiple of training.patch ({self.training.patch}), found {self.training.chip}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _scores_what_is_forecast(self) -> Self:
        forecast = [band.name for band in self.bands if band.forecast]
        for name in (*self.verification.thresholds, *self.verification.spans):
            if name not in forecast:
                msg = f"verification.thresholds and .spans name forecast bands, {forecast}, found {name!r}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _scores_regions_of_the_grid(self) -> Self:
        grid = self.grid.geobox()
        for name, bounds in self.verification.regions.items():
            if window_of(bounds, grid) is None:
                area = [round(edge, 3) for edge in grid.extent.boundingbox.bbox]
                msg = f"verification.regions lie on the grid, {area} in its CRS, found {list(bounds)} for {name}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _foretells_what_can_be(self) -> Self:
        forecast = {band.name: band for band in self.bands if band.forecast}
        for name, thresholds in self.forecast.probabilities.items():
            if name not in forecast:
                msg = f"forecast.probabilities names forecast bands, {list(forecast)}, found {name!r}"
                raise ValueError(msg)
            ((low, high),) = valid_ranges([forecast[name]])
            beyond = [one for one in thresholds if not low <= one <= high]
            if beyond:
                rule = f"forecast.probabilities.{name} holds values that the band can have, {low:g} to {high:g}"
                msg = f"{rule} {forecast[name].units} (valid_min, floor and valid_max), found {beyond}"
                raise ValueError(msg)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment beats the file."""
        return env_settings, init_settings

    @property
    def paths(self) -> Workspace:
        """The product's folders."""
        return Workspace(self.workspace)


def load(path: Path) -> Settings:
    """Settings from a TOML file and the environment, with absolute paths and a limit to the motion believed.

    Raises:
        ConfigError: the file is missing, is not TOML or breaks a rule; the text names field, value, rule and fix.
    """
    return parse(_read(path), source=str(path), folder=path.resolve().parent)


def parse(document: dict[str, Any], *, source: str, folder: Path) -> Settings:
    """Settings from a parsed document; ``source`` is named in errors, relative paths start at ``folder``."""
    try:
        settings = Settings(**document)
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from None
    except SettingsError as error:
        msg = (
            f"{source}: a CUBECAST_ environment variable cannot be read: {error} ({error.__cause__}). Mend or unset it"
        )
        raise ConfigError(msg) from None
    return _limited(_absolute(settings, folder))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path}: no such configuration file. Write one with: cubecast init SCENES_FOLDER --output {path}"
        raise ConfigError(msg) from None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: the configuration cannot be read: {error}"
        raise ConfigError(msg) from None
    except tomllib.TOMLDecodeError as error:
        msg = f"{path}: the configuration is not valid TOML: {error}. Mend that line, or write a new one: cubecast init"
        raise ConfigError(msg) from None


def _explain(error: ValidationError, source: str) -> str:
    faults = _own_faults(error.errors())
    lines = [f"{source}: {len(faults)} value(s) break a rule:"]
    for fault in faults:
        field = _place([str(part) for part in fault["loc"]])
        value = (
            ""
            if fault["type"] in {"missing", "value_error"} and isinstance(fault["input"], dict)
            else f" = {fault['input']!r}"
        )
        lines.append(f"  {field}{value}: {_rule(fault['type'], fault['msg'])}")
    return "\n".join(lines)


def _place(parts: list[str]) -> str:
    """Where a value stands: in the file, or in a variable of the environment, which beats the file."""
    field, variable = ".".join(parts) or "(whole file)", "CUBECAST_" + "__".join(parts).upper()
    return f"{field} (environment variable {variable})" if variable in os.environ else field


def _own_faults(faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without those that only follow from others: a tuple whose one member is wrong counts as too short."""
    places = [fault["loc"] for fault in faults]

    def follows(fault: ErrorDetails) -> bool:
        depth = len(fault["loc"])
        return fault["type"] == "too_short" and any(p[:depth] == fault["loc"] and len(p) > depth for p in places)

    return [fault for fault in faults if not follows(fault)]


def _rule(kind: str, message: str) -> str:
    rules = {
        "missing": "is required: add it",
        "extra_forbidden": "is no setting of cubecast: remove it or mend its spelling",
        "time_delta_parsing": "is a duration, written like PT5M, PT12H or P30D (ISO 8601)",
    }
    return rules.get(kind, message.removeprefix("Value error, "))


def _absolute(settings: Settings, folder: Path) -> Settings:
    scenes = settings.scenes.model_copy(update={"folder": _anchored(settings.scenes.folder, folder)})
    if scenes.mask is not None:
        mask = scenes.mask.model_copy(update={"folder": _anchored(scenes.mask.folder, folder)})
        scenes = scenes.model_copy(update={"mask": mask})
    static = tuple(_anchored(path, folder) for path in settings.covariates.static)
    covariates = settings.covariates.model_copy(update={"static": static})
    together = tuple(_anchored(path, folder) for path in settings.training.together)
    update = {
        "workspace": _anchored(settings.workspace, folder),
        "scenes": scenes,
        "covariates": covariates,
        "training": settings.training.model_copy(update={"together": together}),
    }
    return cast("Settings", settings.model_copy(update=update))


def _limited(settings: Settings) -> Settings:
    """With what is derived from pixel size and cadence where nobody said it."""
    motion = settings.motion.limited(settings.grid.geobox(), settings.axis.cadence)
    return cast("Settings", settings.model_copy(update={"motion": motion}))


def _anchored(path: Path, folder: Path) -> Path:
    return (folder / path.expanduser()).resolve()

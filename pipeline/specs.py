"""The parts of a configuration: what each may hold, with unit and meaning; every function gets the one it needs."""

from __future__ import annotations

import glob
import re
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from odc.geo.geobox import GeoBox
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pyproj.exceptions import CRSError

from pipeline.grid import geobox, pixel_size
from pipeline.times import TimeAxis

INTEGER_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
FLOAT_TYPES = ("float32", "float64")

Resolution = Literal["scenes", "fine"]

FASTEST = 100.0  # m/s
ALL = "all"  # every part of a forecast at once, as tables of scores call it
LEAST_LIMIT = 8.0  # px a slot
LONGEST_WAY = 1 / 4  # of the shorter side, a slot

# What strptime reads for a directive; without it `*{time}` could not tell where the time begins.
DIRECTIVES = {
    "Y": r"\d{4}",
    **dict.fromkeys("mdHIMSy", r"\d{1,2}"),
    "j": r"\d{1,3}",
    "f": r"\d{1,6}",
    "z": r"(?:Z|[+-]\d\d:?\d\d)",
    "%": "%",
}


def _aware(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_aware)]


class Spec(BaseModel):
    """A frozen part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class ProviderSpec(Spec):
    """Who made the data, for the STAC items."""

    name: str = Field(min_length=1, description="Name of the organisation")
    roles: tuple[Literal["licensor", "producer", "processor", "host"], ...] = Field(
        default=("producer",), description="What it did: licensor, producer, processor, host"
    )
    url: str | None = Field(default=None, description="Its address")


class ProductSpec(Spec):
    """What the forecasts are called and under which terms they may be used."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Short name: small letters, digits, - and _")
    title: str = Field(default="", description="One line for catalogues")
    licence: str = Field(default="other", min_length=1, description="SPDX identifier of the licence, or 'other'")
    attribution: str = Field(default="", description="Credit that must accompany every copy")
    providers: tuple[ProviderSpec, ...] = Field(default=(), description="Who made the data")


class MaskSpec(Spec):
    """A folder of mask rasters beside the scenes (clouds, shadows)."""

    folder: Path = Field(description="Folder of the masks")
    suffix: str = Field(default="", description="What a mask's file name has between the scene's stem and .tif")
    values: tuple[int, ...] = Field(default=(1,), min_length=1, description="Mask values that make a pixel unusable")


class FirewallSpec(Spec):
    """What is done about pixels and scenes that cannot be true.

    ``flag`` sets a bit of the quality array and leaves the pixel usable, ``mask`` sets the bit and makes it unusable,
    ``quarantine`` refuses the scene.
    """

    zeros_are_values: bool | None = Field(
        default=None,
        description="A DN of 0 is a measurement (radar: no echo), not a hole; absent: yes for rain and reflectivity",
    )
    all_nodata: Literal["off", "quarantine"] = Field(default="quarantine", description="A scene without any value")
    all_zero: Literal["off", "quarantine"] = Field(
        default="quarantine", description="A scene of zeros, where zeros are no values"
    )
    lost: Literal["off", "mask", "quarantine"] = Field(
        default="mask", description="Rectangles of zeros that no tag declares, and lines of one value (lost blocks)"
    )
    out_of_range: Literal["mask", "quarantine"] = Field(
        default="quarantine", description="A scene most of which lies outside valid_min and valid_max"
    )
    saturation: Literal["off", "flag", "mask"] = Field(default="flag", description="Pixels at the sensor's upper end")
    stuck: Literal["off", "mask"] = Field(default="mask", description="A scene that repeats an earlier one")
    level: Literal["off", "mask"] = Field(
        default="mask", description="A scene all of whose values are shifted against the scenes before it"
    )
    night: Literal["off", "flag", "mask"] = Field(
        default="mask", description="Visible bands with the sun below the horizon"
    )


class SceneSpec(Spec):
    """Where scenes lie and how their names and tags are read."""

    folder: Path = Field(default=Path("inbox"), description="Inbox of GeoTIFF scenes")
    url: str = Field(
        default="",
        pattern=r"^([a-z0-9+]+://.+)?$",
        description="Inbox beyond this machine, as fsspec writes it (s3://bucket/prefix), instead of folder",
    )
    pattern: str = Field(
        default="*{time}.tif",
        description="File name with {time} where the acquisition time stands and {tile} where a tile's name does; "
        "* is anything",
    )
    time_format: str = Field(default="%Y%m%dT%H%MZ", min_length=2, description="strptime format of {time}, UTC")
    time_tag: str | None = Field(
        default=None, description="TIFF tag with the acquisition time, instead of the file name"
    )
    revision_tag: str | None = Field(default=None, description="TIFF tag with the processing baseline or time")
    available_tag: str | None = Field(
        default=None, description="TIFF tag with the time when the scene became available"
    )
    latency: timedelta = Field(
        default=timedelta(0),
        ge=timedelta(0),
        description="From acquisition to availability where no tag says it (ISO 8601)",
    )
    settle: timedelta = Field(
        default=timedelta(seconds=1),
        ge=timedelta(0),
        description="A file that changed later than this ago is looked at twice before it is read (ISO 8601)",
    )
    off_grid: Literal["refuse", "warp"] = Field(
        default="refuse", description="A scene of another grid: refuse it, or warp it onto the cube's"
    )
    mask: MaskSpec | None = Field(default=None, description="Masks beside the scenes")
    firewall: FirewallSpec = Field(default=FirewallSpec(), description="What is done about impossible pixels")

    @field_validator("pattern")
    @classmethod
    def _names_a_time(cls, pattern: str) -> str:
        if pattern.count("{time}") > 1 or pattern.count("{tile}") > 1 or "/" in pattern:
            msg = "is a file name with {time} and {tile} at most once each, and no folder"
            raise ValueError(msg)
        return pattern

    @model_validator(mode="after")
    def _has_a_time(self) -> Self:
        if "{time}" not in self.pattern and self.time_tag is None:
            msg = "pattern needs {time}, or time_tag must name a TIFF tag: otherwise no scene has a time"
            raise ValueError(msg)
        return self

    @property
    def glob(self) -> str:
        """The pattern for a folder listing."""
        escaped = glob.escape(self.pattern).replace("[*]", "*").replace("{time}", "*").replace("{tile}", "*")
        return re.sub(r"\*+", "*", escaped)  # pathlib refuses ** inside a name

    def time_text(self, name: str) -> str | None:
        """What stands at {time} in a file name; None where the name does not match or has no time."""
        return self._part(name, "time")

    def tile_text(self, name: str) -> str:
        """What stands at {tile} in a file name; empty where the name does not match or has no tile."""
        return self._part(name, "tile") or ""

    def _part(self, name: str, part: str) -> str | None:
        time = ".+?" if self.time_tag else _strptime_regex(self.time_format)
        wild = {"*": ".*?", "{time}": f"(?P<time>{time})", "{tile}": "(?P<tile>.+?)"}
        pieces = re.split(r"(\*|\{time\}|\{tile\})", self.pattern)
        match = re.fullmatch("".join(wild.get(piece, re.escape(piece)) for piece in pieces), name)
        return None if match is None else match.groupdict().get(part)


def _strptime_regex(time_format: str) -> str:
    parts = (DIRECTIVES.get(d, ".+?") if d else re.escape(text) for d, text in re.findall("%(.)|([^%]+)", time_format))
    return f"(?i:{''.join(parts)})"  # strptime minds no capitals


class BandSpec(Spec):
    """One band of the scenes. Physical value = DN * scale + offset."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Name in the cube and in the forecasts")
    index: int = Field(default=1, ge=1, description="Band number in the scene, from 1")
    source: str = Field(
        default="", description="The band's name in the scene, which then decides instead of its number"
    )
    dtype: Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"] = Field(
        description="Type of the DN"
    )
    units: str = Field(default="1", description="Unit of the physical value (UDUNITS)")
    scale: float = Field(default=1.0, description="DN to unit: factor")
    offset: float = Field(default=0.0, description="DN to unit: addend")
    nodata: float | None = Field(
        default=None, description="DN of a missing pixel (nan for floats); absent: all are valid"
    )
    special: tuple[float, ...] = Field(default=(), description="Further DN that are no values (undetected, off disc)")
    declared: tuple[float, float] | None = Field(
        default=None, description="Scale and offset that the scenes themselves declare; another scale is refused"
    )
    saturated: float | None = Field(
        default=None,
        description="DN from which the sensor is saturated; absent: the type's largest, unless it is nodata",
    )
    visible: bool = Field(default=False, description="Reflected sunlight: at night it shows nothing")
    period: timedelta | None = Field(
        default=None, gt=timedelta(0), description="Accumulations: over how long (ISO 8601)"
    )
    time_labels: Literal["start", "end"] = Field(
        default="end", description="Accumulations: which end of the period the scene's time names"
    )
    resampling: Literal["nearest", "bilinear", "cubic", "average", "mode"] = Field(
        default="bilinear", description="How a scene of another grid is warped; categories: nearest or mode"
    )
    valid_min: float | None = Field(default=None, description="Smallest possible physical value")
    valid_max: float | None = Field(default=None, description="Largest possible physical value")
    floor: float | None = Field(
        default=None,
        description="Lower physical values count as this one (radar: no echo); nothing is changed in the cube",
    )
    transform: Literal["none", "log"] = Field(
        default="none",
        description="Scale on which networks learn the band: none, or log for amounts that are mostly small (rain)",
    )
    forecast: bool = Field(default=True, description="Forecast this band; false: input only")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.scale == 0:
            msg = "scale is not 0: every DN would mean the same"
            raise ValueError(msg)
        if self.dtype in INTEGER_TYPES and self.nodata is not None:
            info = np.iinfo(self.dtype)
            if not (float(self.nodata).is_integer() and info.min <= self.nodata <= info.max):
                rule = f"nodata of a {self.dtype} band is a whole number from {info.min} to {info.max}"
                msg = f"{rule}, found {self.nodata}"
                raise ValueError(msg)
        return self

    @property
    def fill(self) -> float:
        """DN that the cube and the forecasts write for a missing pixel: the scenes' nodata, or one that no scene uses.

        Floats take NaN, signed integers their smallest, unsigned ones their largest value.
        """
        if self.nodata is not None:
            return self.nodata
        if self.dtype in FLOAT_TYPES:
            return float("nan")
        info = np.iinfo(self.dtype)
        return float(info.min if info.min < 0 else info.max)

    def to_json(self) -> dict[str, Any]:
        """JSON form; it has no NaN and no infinity: as words, which pydantic reads as numbers."""
        dumped = self.model_dump(mode="json")
        return {k: str(v) if isinstance(v, float) and not isfinite(v) else v for k, v in dumped.items()}


class StoreSpec(Spec):
    """Where the cube or the forecasts lie. Credentials come from the environment (AWS_ACCESS_KEY_ID and so on)."""

    url: str = Field(
        default="", pattern=r"^(s3://[^/]+/.+)?$", description="s3://bucket/prefix; empty: the workspace's folder"
    )
    endpoint: str = Field(default="", description="Address of an S3-compatible server; empty: AWS")
    region: str = Field(default="us-east-1", description="Region of the bucket")


class GridSpec(Spec):
    """The cube's grid."""

    crs: str = Field(min_length=1, description="Authority code (EPSG:32633) or WKT")
    transform: tuple[float, float, float, float, float, float] = Field(
        description="Affine a, b, c, d, e, f: x = a*column + b*row + c, y = d*column + e*row + f, in CRS units"
    )
    width: int = Field(ge=1, description="Columns (px)")
    height: int = Field(ge=1, description="Rows (px)")

    @model_validator(mode="after")
    def _known_crs(self) -> Self:
        try:
            self.geobox()
        except CRSError as error:
            msg = f"crs is an authority code or WKT that PROJ knows: {error}"
            raise ValueError(msg) from None
        a, b, _, d, e, _ = self.transform
        if not abs(a * e - b * d) > 0:
            msg = f"transform gives every pixel an area, found a, b, d, e = {a:g}, {b:g}, {d:g}, {e:g}"
            raise ValueError(msg)
        return self

    def geobox(self) -> GeoBox:
        """The grid as odc-geo knows it."""
        return geobox(self.crs, self.transform, (self.height, self.width))


class AxisSpec(Spec):
    """The cube's time axis."""

    origin: UtcTime = Field(description="Time of slot 0, UTC; older scenes are refused")
    cadence: timedelta = Field(gt=timedelta(0), description="From slot to slot, whole minutes (ISO 8601: PT5M, P1D)")

    @field_validator("cadence")
    @classmethod
    def _whole_minutes(cls, cadence: timedelta) -> timedelta:
        if cadence % timedelta(minutes=1):
            msg = "is whole minutes, because lead times in minutes name the forecast files"
            raise ValueError(msg)
        return cadence

    def axis(self) -> TimeAxis:
        """The axis as a value."""
        return TimeAxis(self.origin, self.cadence)


class SampleSpec(Spec):
    """How forecast samples are cut from the cube."""

    context_frames: int = Field(default=4, ge=1, le=64, description="Observed frames that a forecast sees")
    max_age: int = Field(default=8, ge=1, description="Oldest context frame, in slots before the init time")
    horizon: int = Field(default=6, ge=1, le=288, description="How many slots ahead")
    test_fraction: float = Field(
        default=0.2, gt=0, lt=0.9, description="Last part of the observed slots, never trained on"
    )
    validation_fraction: float = Field(
        default=0.2, gt=0, lt=0.9, description="Part of the rest that watches the training"
    )
    embargo: int = Field(
        default=1, ge=0, description="Observed slots left out between training and validation, and before the test part"
    )
    max_missing: int | None = Field(
        default=None, ge=0, description="Context frames that may be missing at most; absent: all but two"
    )
    block_buffer: int = Field(default=48, ge=0, description="Pixels kept free around validation blocks (short series)")
    max_inits: int = Field(default=96, ge=1, description="Init times used for training at most, spread evenly")
    partial: bool = Field(
        default=True,
        description="Training and validation use init times some of whose targets lie in a later part, without these",
    )

    @model_validator(mode="after")
    def _leaves_a_frame(self) -> Self:
        if (self.max_missing or 0) >= self.context_frames:
            msg = f"max_missing leaves a context frame: at most {self.context_frames - 1}, found {self.max_missing}"
            raise ValueError(msg)
        return self


class MotionSpec(Spec):
    """How motion between frames is estimated."""

    method: Literal["dis", "none"] = Field(
        default="dis", description="dis: OpenCV's dense inverse search; none: nothing moves"
    )
    band: int = Field(default=1, ge=1, description="Band whose motion is followed (from 1, in the order of [[bands]])")
    smoothing: float = Field(default=0.01, ge=0, le=0.5, description="Blur of the flow, as a part of the shorter side")
    max_speed: float | None = Field(
        default=None,
        gt=0,
        description="Fastest motion believed, in pixels per slot; absent: 100 m/s, at least 8 pixels and at most a "
        "quarter of the shorter side",
    )

    def limited(self, grid: GeoBox, cadence: timedelta) -> Self:
        """With the fastest motion believed, where nobody said it.

        Jet streams reach 100 m/s. Below 8 pixels a slot nothing is cut off, as a flow is only so exact; what crosses
        more than a quarter of the frame cannot be followed.
        """
        if self.max_speed is not None or self.method == "none":
            return self
        fastest = FASTEST * cadence.total_seconds() / max(pixel_size(grid), 1e-6)
        limit = min(max(fastest, LEAST_LIMIT), LONGEST_WAY * min(grid.shape))
        return self.model_copy(update={"max_speed": round(limit, 1)})


class CovariateSpec(Spec):
    """What a network is told besides the frames: known for every time and place beforehand."""

    time_of_day: bool = Field(default=False, description="Sine and cosine of the mean solar time of day")
    time_of_year: bool = Field(default=False, description="Sine and cosine of the day of the year")
    solar_zenith: bool = Field(default=False, description="Cosine of the sun's zenith angle at every pixel")
    static: tuple[Path, ...] = Field(
        default=(), description="GeoTIFFs on any grid that say something lasting of every pixel, such as elevation"
    )


class TrainingSpec(Spec):
    """The network and how it is trained."""

    network: Literal["attention", "convlstm", "dot_product", "pixel_lstm", "head", "cascade", "seasonal"] = Field(
        default="attention",
        description="attention: a head at every pixel that listens to a ConvLSTM with additive attention at every "
        "lead; convlstm: without attention; dot_product: stacked ConvLSTM with multi-head attention; head: without a "
        "ConvLSTM; cascade: the linear first guess of the head; pixel_lstm: each pixel alone (patch = 1); seasonal: "
        "each pixel from its own past years (slow optical series)",
    )
    blend: tuple[Literal["persistence", "climatology", "kriging", "attention"], ...] = Field(
        default=("persistence", "climatology", "kriging", "attention"),
        min_length=1,
        description="Forecasts that a seasonal network may blend; it takes those that prove good",
    )
    head_units: int = Field(default=48, ge=1, description="Channels of the two layers that look at each pixel")
    quantiles: tuple[float, ...] = Field(
        default=(0.1, 0.5, 0.9), description="Levels of the quantiles that are forecast beside the mean; 0.5 among them"
    )
    pixels: int = Field(
        default=1_000_000, ge=1000, description="Single pixels that the head learns from before it learns from chips"
    )
    patch: int = Field(
        default=4, ge=1, le=8, description="Space-to-depth patch (px); 1 keeps every pixel, at 15 times the cost"
    )
    filters: int = Field(default=24, ge=1, description="Channels of the ConvLSTM's state")
    attention_units: int = Field(default=16, ge=1, description="Channels of the attention (all heads together)")
    attention_heads: int = Field(default=4, ge=1, description="Heads of dot-product attention")
    attention_kernel: Literal[1, 3] = Field(default=1, description="Side of the attention's convolutions (patches)")
    attention_reduction: int = Field(
        default=1, ge=1, le=8, description="Scores are made on patches this many times as long"
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        default="float32", description="Type of the arithmetic in training; weights and forecasts stay float32"
    )
    devices: int = Field(default=1, ge=0, description="Devices that share each batch (data parallel); 0: all GPUs")
    chip: int = Field(default=128, ge=16, description="Training chip (px)")
    batch: int = Field(default=4, ge=1, description="Chips a step")
    accumulate: int = Field(default=1, ge=1, description="Steps whose gradients are averaged before the weights move")
    steps_per_epoch: int = Field(default=40, ge=1, description="Steps an epoch")
    epochs: int = Field(default=6, ge=1, description="Epochs at most")
    patience: int = Field(default=4, ge=1, description="Epochs without a better validation loss that end a training")
    budget: timedelta = Field(
        default=timedelta(minutes=10), gt=timedelta(0), description="Wall time at most (ISO 8601)"
    )
    cpu_budget: timedelta | None = Field(
        default=None, gt=timedelta(0), description="Processor time at most, of all cores (ISO 8601); absent: no limit"
    )
    checkpoint: timedelta = Field(
        default=timedelta(minutes=1),
        ge=timedelta(0),
        description="A crash loses at most this much training (ISO 8601); every step: PT0S",
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate of AdamW; cosine decay")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of a gradient")
    average: float = Field(
        default=0.0, ge=0, lt=1, description="Momentum of the moving average of the weights that is kept; 0: none"
    )
    drop_frames: float = Field(
        default=0.1, ge=0, lt=1, description="Part of the context frames that training hides, as if they had not come"
    )
    jitter: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Training chips vary in contrast and level by this part of the band's spread, unless a band has a "
        "floor; 0: not at all",
    )
    interest: Literal["none", "texture", "change", "activity"] = Field(
        default="none",
        description="Draw training chips more often where there is texture, change, or much of the first band (rain)",
    )
    together: tuple[Path, ...] = Field(
        default=(),
        description="Configuration files of further products, of the same kind and pixel size, to learn from as well",
    )
    warm_start: Literal["none", "champion"] = Field(
        default="none", description="Where the weights start: anew, or from the product's champion"
    )
    seed: int = Field(default=0, ge=0, description="Seed of weights and sampling")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.network == "pixel_lstm" and self.patch != 1:
            msg = f"a pixel_lstm sees each pixel alone: patch is 1, found {self.patch}"
            raise ValueError(msg)
        if self.network == "dot_product" and self.attention_units % self.attention_heads:
            found = f"{self.attention_units} for {self.attention_heads}"
            msg = f"attention_units are shared out evenly to attention_heads, found {found}"
            raise ValueError(msg)
        rising = list(self.quantiles) == sorted({*self.quantiles}) and all(0 < level < 1 for level in self.quantiles)
        if not rising or 0.5 not in self.quantiles:
            msg = f"quantiles rise between 0 and 1 with 0.5 among them, found {list(self.quantiles)}"
            raise ValueError(msg)
        return self


class ForecastSpec(Spec):
    """How forecasts are made and published."""

    tile: int = Field(
        default=1024, ge=64, description="Tile of a prediction (px); the network's reach is added around it"
    )
    issue: Literal["newest", "due"] = Field(
        default="newest",
        description="For which slot a run is issued: newest: that of the newest scene; due: the newest one that is "
        "delay old by the clock, whether or not its scene has come",
    )
    delay: timedelta = Field(
        default=timedelta(0),
        ge=timedelta(0),
        description="How long after its time a slot is due; a hindcast sees what was available then (ISO 8601)",
    )
    climatology_frames: int = Field(
        default=12,
        ge=0,
        le=64,
        description="Earlier frames, of the same time of day and nearest in season, whose mean stands where no context "
        "frame shows anything; 0: nothing does",
    )
    deadline: timedelta | None = Field(
        default=None,
        gt=timedelta(0),
        description="A network that is not ready this long after the start is ended, and the next rung is published "
        "(ISO 8601); absent: it is waited for",
    )
    catch_up: timedelta | None = Field(
        default=None,
        ge=timedelta(0),
        description="Runs that are missing, of slots whose scene has come, are made up for, this far back from the "
        "newest one (ISO 8601); absent: an hour, or 12 slots where these are longer; PT0S: none",
    )
    follow: bool = Field(
        default=True, description="Widen or narrow intervals as the scores of the newest forecasts ask for"
    )
    yield_to_extrapolation: bool = Field(
        default=True,
        description="Publish extrapolation at leads where the scores of the newest forecasts show that it is better",
    )
    resolution: Resolution = Field(
        default="fine",
        description="Steps of the published values where the scenes hold integers: their own, or 16 times as fine",
    )
    probabilities: dict[str, tuple[float, ...]] = Field(
        default={},
        description="By band: values in its unit; forecasts with quantiles say how likely each is to be reached or "
        "exceeded, or, of a temperature, not reached",
    )
    store: StoreSpec = Field(default=StoreSpec(), description="Where published runs lie, if not in the workspace")
    keep_for: timedelta | None = Field(
        default=None, gt=timedelta(0), description="Runs made longer ago than this go (ISO 8601); absent: none"
    )
    keep_runs: int | None = Field(
        default=None, ge=1, description="The newest so many runs stay, older ones go; absent: all stay"
    )

    @field_validator("probabilities")
    @classmethod
    def _rising(cls, probabilities: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for band, values in probabilities.items():
            if not values or list(values) != sorted({*values}) or not all(map(isfinite, values)):
                msg = f"thresholds are one or more numbers that rise, found {list(values)} for {band}"
                raise ValueError(msg)
        return probabilities


class VerificationSpec(Spec):
    """What published forecasts are scored by, beside their errors. Nothing here changes a forecast."""

    thresholds: dict[str, tuple[float, ...]] = Field(
        default={},
        description="By band: values in its unit from which something is an event; below which, where it is a "
        "temperature",
    )
    scales: tuple[int, ...] = Field(
        default=(1, 5, 17), description="Sides of the neighbourhoods in which an event may lie (odd, px)"
    )
    spans: dict[str, tuple[float, float]] = Field(
        default={},
        description="By band: lowest and highest value that similarity and signal-to-noise ratio are relative to; "
        "absent: valid_min and valid_max",
    )
    structure: bool = Field(
        default=True, description="Score similarity and spectra (0.1 CPU-s a megapixel, lead, band and predictor)"
    )
    climatology_frames: int = Field(
        default=12,
        ge=0,
        description="Frames of the same season and time of day in the climatology that forecasts are held against, "
        "once the cube reaches back a year; 0: none",
    )
    regions: dict[str, tuple[float, float, float, float]] = Field(
        default={},
        description="Parts of the grid that are scored apart, by name: min x, min y, max x, max y in the cube's CRS; "
        "absent: the four quarters of the grid",
    )

    @field_validator("regions")
    @classmethod
    def _areas(cls, regions: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        for name, (left, bottom, right, top) in regions.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _-]*", name) or name == ALL:
                msg = f"a region is called by letters, digits, spaces, - and _, and not {ALL!r}, found {name!r}"
                raise ValueError(msg)
            if not (left < right and bottom < top):
                msg = f"a region goes from min x, min y to max x, max y, found {[left, bottom, right, top]} for {name}"
                raise ValueError(msg)
        return regions

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if any(scale < 1 or scale % 2 == 0 for scale in self.scales):
            msg = f"scales are odd, so that a neighbourhood has a middle, found {list(self.scales)}"
            raise ValueError(msg)
        for band, values in self.thresholds.items():
            if list(values) != sorted({*values}):
                msg = f"thresholds rise, found {list(values)} for {band}"
                raise ValueError(msg)
        for band, (low, high) in self.spans.items():
            if not low < high:
                msg = f"a span goes from a lower value to a higher one, found {[low, high]} for {band}"
                raise ValueError(msg)
        return self


class ModelSpec(Spec):
    """When a new version of the model takes the place of the one that serves, and how long that one watches it."""

    inits: int = Field(
        default=96, ge=8, description="Held-out init times at which versions are compared at most, spread evenly"
    )
    gain: float = Field(
        default=0.05, gt=0, lt=1, description="A version whose error is smaller by this part is to be found out as such"
    )
    coverage_within: float = Field(
        default=0.1, gt=0, lt=1, description="Intervals hold as many truths as they promise, give or take this part"
    )
    cost_ratio: float = Field(
        default=2.0, gt=0, description="Processor time of a forecast at most, in that of the champion's"
    )
    cost_limit: timedelta | None = Field(
        default=None, gt=timedelta(0), description="Processor time of a forecast at most (ISO 8601); absent: no limit"
    )
    probation: int = Field(
        default=96, ge=0, description="Runs of a new champion beside which its predecessor is scored, too; 0: none"
    )


class TrackingSpec(Spec):
    """Where MLflow keeps the record."""

    uri: str = Field(default="", description="MLflow tracking address; empty: SQLite in the workspace")
    experiment: str = Field(default="", description="MLflow experiment; empty: the product's name")


class ServiceSpec(Spec):
    """Addresses on this machine and beyond."""

    prefect_port: int = Field(default=4200, ge=1024, le=65535, description="Port of `cubecast up`'s Prefect server")
    mlflow_port: int = Field(default=5000, ge=1024, le=65535, description="Port of `cubecast up`'s MLflow server")
    dask: str = Field(default="", description="Address of a dask scheduler (tcp://host:8786); empty: threads")

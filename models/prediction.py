"""A trained network as a Predictor on whole grids: normalised, in tiles, in coordinates that move with the flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.networks import NetworkSpec
from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.forecast import Champion, Normalised, Tiled
from pipeline.lagrangian import Advected
from pipeline.normalise import Statistics
from pipeline.predictor import Context, Forecast, Source
from pipeline.record import ModelRef
from pipeline.specs import MotionSpec, SampleSpec

Model = Any  # Keras is untyped


@dataclass(frozen=True, slots=True)
class Card:
    """What a network's weights mean: kept beside them, needed to use them.

    Attributes:
        network: its shape.
        statistics: of all bands, from the training split.
        samples: context and horizon that it was trained for.
        motion: how its context is aligned.
        bands: names of the bands in, in order.
    """

    network: NetworkSpec
    statistics: Statistics
    samples: SampleSpec
    motion: MotionSpec
    bands: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "network": self.network.as_dict(),
            "statistics": self.statistics.to_json(),
            "samples": self.samples.model_dump(mode="json"),
            "motion": self.motion.model_dump(mode="json"),
            "bands": list(self.bands),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Card:
        """The inverse of :meth:`to_json`."""
        return cls(
            NetworkSpec.from_dict(document["network"]),
            Statistics.from_json(document["statistics"]),
            SampleSpec.model_validate(document["samples"]),
            MotionSpec.model_validate(document["motion"]),
            tuple(document["bands"]),
        )


@dataclass(frozen=True, slots=True)
class NetworkPredictor:
    """The network itself: aligned context in, forecast in the same coordinates out, both standardised.

    Where no frame of the context has a valid pixel it says nothing.
    """

    model: Model
    spec: NetworkSpec

    def predict(self, context: Context, horizon: int) -> Forecast:
        """See :class:`~pipeline.predictor.Predictor`.

        Raises:
            ModelError: ``horizon`` is longer than the network's.
            NotEnoughFramesError: the context has another number of frames than the network.
        """
        if horizon > self.spec.horizon:
            msg = f"the network forecasts {self.spec.horizon} slots ahead, asked for {horizon}: train again"
            raise ModelError(msg)
        said = self._run(context)["forecast"][:, :horizon]
        known = np.any(context.validity[..., list(self.spec.bands_out)], axis=1)
        values = np.where(known[:, np.newaxis], said, np.nan).astype(np.float32)
        covered = known.any(axis=-1)
        shape = (len(said), horizon, *context.grid_shape)
        source = np.where(covered, np.uint8(Source.NETWORK), np.uint8(Source.NONE))
        return Forecast(
            values[:, :, np.newaxis],
            np.ascontiguousarray(np.broadcast_to(source[:, np.newaxis], shape)),
            np.ascontiguousarray(np.broadcast_to(_newest_age(context, self.spec.bands_out)[:, np.newaxis], shape)),
        )

    def attention(self, context: Context) -> NDArray[np.float32]:
        """Weight of each context frame: ``(batch, lead, frame, y / patch, x / patch)``."""
        return np.asarray(self._run(context)["attention"], np.float32)

    def _run(self, context: Context) -> dict[str, NDArray]:
        if context.values.shape[1] != self.spec.context_frames:
            msg = f"the network sees {self.spec.context_frames} frames, the context has {context.values.shape[1]}"
            raise NotEnoughFramesError(msg)
        height, width = context.grid_shape
        said = self.model(network_inputs(context.values, context.ages, self.spec.patch), training=False)
        return {
            "forecast": np.asarray(said["forecast"])[:, :, :height, :width],
            "attention": np.asarray(said["attention"]),
        }


def network_inputs(
    frames: NDArray[np.floating], ages: NDArray[np.floating], patch: int
) -> dict[str, NDArray[np.float32]]:
    """Frames with NaN where missing, as the network takes them: zeros, validity, and sides of whole patches."""
    height, width = frames.shape[2:4]
    margin = ((0, 0), (0, 0), (0, -height % patch), (0, -width % patch), (0, 0))
    padded = np.pad(frames.astype(np.float32), margin, constant_values=np.nan)
    validity = np.isfinite(padded)
    return {
        "frames": np.where(validity, padded, np.float32(0)),
        "validity": validity.astype(np.float32),
        "ages": ages.astype(np.float32),
    }


def _newest_age(context: Context, bands: tuple[int, ...]) -> NDArray[np.float32]:
    """Age of the newest frame of each pixel that has one of the bands: ``(batch, y, x)``; NaN where there is none."""
    valid = context.validity[..., list(bands)].any(axis=-1)
    ages = np.where(valid, context.ages[:, :, np.newaxis, np.newaxis], np.inf).min(axis=1)
    return np.where(np.isfinite(ages), ages, np.nan).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network, what its weights mean, and what it is called."""

    model: Model
    card: Card
    ref: ModelRef

    @property
    def bare(self) -> NetworkPredictor:
        """The network itself."""
        return NetworkPredictor(self.model, self.card.network)

    def champion(self, tile: int) -> Champion:
        """The network in all its wrappers: contexts in the units of the bands in, forecasts of its bands out."""
        card = self.card
        scaled = Normalised(self.bare, card.statistics, card.network.bands_out)
        tiled = Tiled(scaled, tile, card.network.receptive_radius(), card.network.patch)
        return Champion(Advected(tiled, card.motion), self.ref)

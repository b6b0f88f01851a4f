"""A trained network as a Predictor on whole grids: normalised, in tiles, in coordinates that move with the flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.assurance import Assurance
from models.devices import forward
from models.networks import NetworkSpec
from models.seasonal import SeasonalCard, SeasonalPredictor
from models.seen import Seen
from models.suitability import LAYERS
from pipeline.errors import ModelError, NotEnoughFramesError
from pipeline.normalise import Statistics
from pipeline.predictor import Context, Forecast, Predictor, Source
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.specs import CovariateSpec, MotionSpec, SampleSpec
from pipeline.tiling import Normalised, Tiled

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
        covariates: what it is told besides the frames.
        digest: what decided the covariates' values, files included; empty where there are none.
        version: of the layers that the weights belong to; see :data:`models.suitability.LAYERS`.
        pixel: side of a pixel, metres: what a network learns of scales holds for one size alone; 0: not known.
        assurance: what held-out truths showed of its forecasts; None: nobody looked.
        seasonal: what the weights of a seasonal network mean; None for all others.
        seen: what it has learned from; None: not known.
    """

    network: NetworkSpec
    statistics: Statistics
    samples: SampleSpec
    motion: MotionSpec
    bands: tuple[str, ...]
    covariates: CovariateSpec = field(default_factory=CovariateSpec)
    digest: str = ""
    version: int = LAYERS
    pixel: float = 0.0
    assurance: Assurance | None = None
    seasonal: SeasonalCard | None = None
    seen: Seen | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "network": self.network.as_dict(),
            "statistics": self.statistics.to_json(),
            "samples": self.samples.model_dump(mode="json"),
            "motion": self.motion.model_dump(mode="json"),
            "bands": list(self.bands),
            "covariates": self.covariates.model_dump(mode="json"),
            "digest": self.digest,
            "version": self.version,
            "pixel": self.pixel,
            "assurance": None if self.assurance is None else self.assurance.to_json(),
            "seasonal": None if self.seasonal is None else self.seasonal.to_json(),
            "seen": None if self.seen is None else self.seen.to_json(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Card:
        """The inverse of :meth:`to_json`; a card without covariates is of a network that has none."""
        return cls(
            NetworkSpec.from_dict(document["network"]),
            Statistics.from_json(document["statistics"]),
            SampleSpec.model_validate(document["samples"]),
            MotionSpec.model_validate(document["motion"]),
            tuple(document["bands"]),
            CovariateSpec.model_validate(document.get("covariates", {})),
            document.get("digest", ""),
            document.get("version", 1),
            document.get("pixel", 0.0),
            None if document.get("assurance") is None else Assurance.from_json(document["assurance"]),
            None if document.get("seasonal") is None else SeasonalCard.from_json(document["seasonal"]),
            None if document.get("seen") is None else Seen.from_json(document["seen"]),
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
            ModelError: ``horizon`` is longer than the network's, or the context lacks the network's covariates.
            NotEnoughFramesError: the context has another number of frames than the network.
        """
        if horizon > self.spec.horizon:
            msg = f"the network forecasts {self.spec.horizon} slots ahead, asked for {horizon}: train again"
            raise ModelError(msg)
        said = self._quantities(self._run(context, horizon)["forecast"], context.grid_shape)[:, :horizon]
        known = np.any(context.validity[..., list(self.spec.bands_out)], axis=1)
        values = np.where(known[:, np.newaxis, np.newaxis], said, np.float32(np.nan))
        covered = known.any(axis=-1)
        shape = (len(said), horizon, *context.grid_shape)
        source = np.where(covered, np.uint8(Source.NETWORK), np.uint8(Source.NONE))
        return Forecast(
            values,
            np.ascontiguousarray(np.broadcast_to(source[:, np.newaxis], shape)),
            np.ascontiguousarray(np.broadcast_to(_newest_age(context, self.spec.bands_out)[:, np.newaxis], shape)),
            self.spec.quantities,
        )

    def _quantities(self, said: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        """``(batch, lead, y, x, quantity * band)`` as ``(batch, lead, quantity, y, x, band)``, without the margin."""
        height, width = shape
        cut = said[:, :, :height, :width]
        apart = cut.reshape(*cut.shape[:-1], len(self.spec.quantities), len(self.spec.bands_out))
        return np.moveaxis(apart, -2, 2)

    def attention(self, context: Context) -> NDArray[np.float32]:
        """Weight of each context frame: ``(batch, lead, frame, y / patch, x / patch)``.

        Raises:
            ModelError: the network has no attention, or the context lacks the network's covariates.
            NotEnoughFramesError: the context has another number of frames than the network.
        """
        if not self.spec.attends:
            msg = f"attention can be looked at in a network that has some, found a {self.spec.kind}: train another kind"
            raise ModelError(msg)
        return self._run(context, self.spec.horizon)["attention"]

    def _run(self, context: Context, horizon: int) -> dict[str, NDArray]:
        if context.values.shape[1] != self.spec.context_frames:
            msg = f"the network sees {self.spec.context_frames} frames, the context has {context.values.shape[1]}"
            raise NotEnoughFramesError(msg)
        told = self._covariates(context, horizon)
        said = forward(self.model)(network_inputs(context.values, context.ages, self.spec.patch, told))
        return {name: np.asarray(array, np.float32) for name, array in said.items()}

    def _covariates(self, context: Context, horizon: int) -> NDArray[np.float32] | None:
        """Those of all leads of the network; leads past the horizon, which nobody asked for, repeat the last one."""
        spec, told = self.spec, context.covariates
        if not spec.covariates:
            return None
        needed = spec.context_frames + horizon
        if told is None or told.shape[-1] != spec.covariates or told.shape[1] < needed:
            found = "none" if told is None else f"{told.shape[-1]} at {told.shape[1]}"
            rule = f"the network is told {spec.covariates} covariates at {needed} times, the context has {found}"
            msg = f"{rule}: attach those of the model's card, or train again"
            raise ModelError(msg)
        return told[:, np.minimum(np.arange(spec.context_frames + spec.horizon), told.shape[1] - 1)]


def network_inputs(
    frames: NDArray[np.floating],
    ages: NDArray[np.floating],
    patch: int,
    covariates: NDArray[np.floating] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """What a network takes: zeros and a note where frames are NaN, and sides of whole patches.

    Args:
        frames: ``(batch, frame, y, x, band)``, NaN where missing.
        ages: ``(batch, frame)``, in slots.
        patch: sides are filled up to multiples of it, frames with what is missing, covariates with their edge.
        covariates: ``(batch, frame + lead, y, x, channel)``, none of them NaN.
    """
    height, width = frames.shape[2:4]
    margin = ((0, 0), (0, 0), (0, -height % patch), (0, -width % patch), (0, 0))
    padded = np.pad(frames.astype(np.float32), margin, constant_values=np.nan)
    validity = np.isfinite(padded)
    inputs = {
        "frames": np.where(validity, padded, np.float32(0)),
        "validity": validity.astype(np.float32),
        "ages": ages.astype(np.float32),
    }
    if covariates is not None:
        inputs["covariates"] = np.pad(covariates.astype(np.float32), margin, mode="edge")
    return inputs


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

    def scaled(self, tile: int | None) -> Predictor:
        """The network on whole grids that do not move: contexts in the units of the bands in, its bands out.

        Args:
            tile: side of what it looks at at once, in pixels; None: everything that it is given.
        """
        card = self.card
        if card.seasonal is not None:
            seasonal = SeasonalPredictor(self.model, card.seasonal)
            return seasonal if tile is None else Tiled(seasonal, tile, halo=0)
        scaled = Normalised(self.bare, card.statistics, card.network.bands_out)
        if tile is None:
            return scaled
        return Tiled(scaled, tile, card.network.receptive_radius(), card.network.alignment)

    def champion(self, tile: int | None = None) -> Champion:
        """The network in all its wrappers, in coordinates that move, with what held-out truths have taught.

        Args:
            tile: see :meth:`scaled`; None for forecasts that are made piece by piece.
        """
        card, scaled = self.card, self.scaled(tile)
        network, taught = card.network, card.assurance
        return Champion(
            scaled if taught is None else taught.of(scaled),
            self.ref,
            motion=card.motion,
            halo=network.receptive_radius(),
            step=network.alignment,
            matched=None if taught is None else taught.matched,
            bands=network.bands_out if taught is None else taught.bands,
            quantities=1 + len(network.levels) + (taught is not None),
            doubt=None if taught is None else taught.doubt,
            validation=None if taught is None or taught.proof is None else taught.proof.to_json(),
        )

"""Network builders: numbers in, a keras.Model out; they know no cube and no configuration file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

import keras
import numpy as np

from models.convlstm import ConvLSTM
from models.decoders import AttentionDecoder, Decoder, DotProductDecoder, PixelHead
from models.encoders import FramePatches, StackedConvLSTM
from models.frames import CovariatePatches, NewestValid, PatchMask, Tensor
from models.heads import CascadeHead, PixelScales
from models.pyramid import coarse_dilations
from models.seasonal import build_seasonal

FRAMES = ("frames", "validity", "ages")
EXACT: Any = {"dtype": "float32"}  # whatever the precision: a field rounded to 16 bit is no extrapolation


class Kind(StrEnum):
    """What a network is made of."""

    ATTENTION = "attention"
    CONVLSTM = "convlstm"
    DOT_PRODUCT = "dot_product"
    PIXEL_LSTM = "pixel_lstm"
    HEAD = "head"
    CASCADE = "cascade"
    SEASONAL = "seasonal"


RECURRENT = {Kind.ATTENTION, Kind.CONVLSTM, Kind.DOT_PRODUCT, Kind.PIXEL_LSTM}


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """All that decides the shape of a network.

    Attributes:
        context_frames: frames that it sees.
        horizon: leads that it forecasts, one slot apart.
        bands_in: bands of a frame.
        bands_out: indices of the bands that it forecasts.
        patch: side of the patches that its state lives on, pixels.
        filters: channels of its state.
        attention_units: channels of its attention, of all heads together.
        kind: what it is made of; see :func:`build`.
        attention_heads: heads of dot-product attention.
        attention_kernel: side of the attention's convolutions, patches.
        attention_reduction: side of the blocks that attention scores are made for, patches.
        covariates: channels of what it is told besides the frames.
        head_units: channels of the hidden layers that look at each pixel.
        anchored: those of ``bands_out``, counted among them from 0, whose level means the same at all times; see
            :class:`models.heads.CascadeHead`.
        levels: of the quantiles that it forecasts beside the mean, ascending, with the median among them; a cascade and
            a pixel_lstm forecast the mean alone.
    """

    context_frames: int
    horizon: int
    bands_in: int
    bands_out: tuple[int, ...]
    patch: int = 4
    filters: int = 24
    attention_units: int = 16
    kind: str = Kind.ATTENTION
    attention_heads: int = 4
    attention_kernel: int = 1
    attention_reduction: int = 1
    covariates: int = 0
    head_units: int = 48
    anchored: tuple[int, ...] = ()
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        at_least_one = ("context_frames", "horizon", "bands_in", "patch", "filters", "attention_units", "head_units")
        for name in (*at_least_one, "attention_heads", "attention_kernel", "attention_reduction"):
            if getattr(self, name) < 1:
                msg = f"{name} of a network is at least 1, found {getattr(self, name)}"
                raise ValueError(msg)
        if self.covariates < 0:
            msg = f"covariates of a network are at least 0, found {self.covariates}"
            raise ValueError(msg)
        if self.attention_kernel % 2 == 0:
            msg = f"attention_kernel is odd, found {self.attention_kernel}: otherwise it has no centre"
            raise ValueError(msg)
        if not self.bands_out or not set(self.bands_out) <= set(range(self.bands_in)):
            rule = f"bands_out are indices of the {self.bands_in} input bands, counted from 0, at least one"
            msg = f"{rule}; found {self.bands_out}"
            raise ValueError(msg)
        self._check_levels()
        self._check_kind()

    def _check_levels(self) -> None:
        rising = list(self.levels) == sorted(set(self.levels)) and all(0 < level < 1 for level in self.levels)
        if not rising or (self.levels and 0.5 not in self.levels):
            msg = f"levels rise between 0 and 1 with 0.5 among them, found {self.levels}"
            raise ValueError(msg)

    def _check_kind(self) -> None:
        if self.kind not in set(Kind):
            msg = f"the kind of a network is one of {', '.join(Kind)}; found {self.kind}"
            raise ValueError(msg)
        if self.kind == Kind.PIXEL_LSTM and self.patch != 1:
            msg = f"a {self.kind} sees each pixel alone: patch is 1, found {self.patch}"
            raise ValueError(msg)
        if self.kind == Kind.DOT_PRODUCT and self.attention_units % self.attention_heads:
            found = f"{self.attention_units} for {self.attention_heads}"
            msg = f"attention_units are shared out evenly to attention_heads, found {found}"
            raise ValueError(msg)

    @property
    def attends(self) -> bool:
        """Whether it weighs its frames, so that its weights can be looked at."""
        return self.kind in {Kind.ATTENTION, Kind.DOT_PRODUCT}

    @property
    def recurs(self) -> bool:
        """Whether it has a branch that remembers."""
        return self.kind in RECURRENT

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of what it forecasts, in order."""
        return ("mean", *(f"q{100 * level:.4g}" for level in self.quantile_levels))

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """Of the quantiles that it forecasts beside the mean."""
        return () if self.kind in {Kind.CASCADE, Kind.PIXEL_LSTM} else self.levels

    @property
    def alignment(self) -> int:
        """Tiles start at multiples of this, in pixels, so that they are cut into the same patches and blocks."""
        if self.kind == Kind.SEASONAL:
            return 1
        return self.patch * (self.attention_reduction if self.attends else 1)

    def receptive_radius(self) -> int:
        """How far an output pixel can see, in pixels: a bound, and a multiple of :attr:`alignment`.

        A tile that is grown by it, and starts on a multiple of :attr:`alignment`, gives the same forecast as the whole
        image.
        """
        if self.kind in {Kind.PIXEL_LSTM, Kind.SEASONAL}:
            return 0
        smoothing = 2 * sum(coarse_dilations(self.patch))  # five taps at each distance
        # one patch to enlarge, one for the place within a patch
        recurrent = self._recurrent_reach() if self.recurs else 0
        radius = self.patch * (max(recurrent, smoothing) + 2)
        return -(-radius // self.alignment) * self.alignment

    def _recurrent_reach(self) -> int:
        """How far the convolutions see, in patches: all are 3x3, but those of the attention."""
        encoder, attention = 1 + self.context_frames, self._attention_reach()
        if self.kind == Kind.DOT_PRODUCT:
            return encoder + 1 + attention + 1  # the second ConvLSTM, the last convolution
        return encoder + self.horizon * max(1, attention)  # a step reaches no farther than its query's answer

    def _attention_reach(self) -> int:
        """How far the weights of a patch depend on others, in patches."""
        blocks = (self.attention_kernel // 2) + (1 if self.attention_reduction > 1 else 0)  # the latter to enlarge
        farthest_in_own_block = self.attention_reduction - 1
        return blocks * self.attention_reduction + farthest_in_own_block if self.attends else 0

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return {
            **asdict(self),
            "bands_out": list(self.bands_out),
            "anchored": list(self.anchored),
            "levels": list(self.levels),
        } | {"kind": str(self.kind)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`as_dict`; what an older version did not know takes its default.

        >>> spec = NetworkSpec(4, 6, 2, (0, 1))
        >>> NetworkSpec.from_dict(spec.as_dict()) == spec
        True
        """
        tuples = {name: tuple(values[name]) for name in ("bands_out", "anchored", "levels") if name in values}
        return cls(**{**values, **tuples})


def build(spec: NetworkSpec, precision: str = "float32") -> keras.Model:
    """Untrained network: it returns the newest valid value for every lead until it is trained.

    It works in Lagrangian coordinates and on normalised values: the frames have been moved along the motion to the init
    time, and the forecast for each lead is still to be moved on. By ``spec.kind``:

    - ``attention``: scales of the newest field and features of a recurrent branch go into a small network at every
      pixel; the branch is a ConvLSTM over the frames, and one over the leads with additive attention before every step;
    - ``convlstm``: the same without attention;
    - ``head``: the same without the branch;
    - ``cascade``: the scales alone, damped and followed: a linear model, fitted by :mod:`models.cascade`;
    - ``dot_product``: the branch is two stacked ConvLSTMs over the frames, then multi-head dot-product attention, all
      leads at once;
    - ``pixel_lstm``: 1x1 convolutions only and no scales, so that each pixel is forecast from its own past;
    - ``seasonal``: attention over a pixel's past years, with inputs and outputs of its own, see :mod:`models.seasonal`.

    Inputs, by name: ``frames`` ``(batch, frame, y, x, band)``, oldest first, 0 where invalid; ``validity``, same shape,
    1 or 0; ``ages`` ``(batch, frame)`` in slots, finite also for missing frames; and, if the spec has any,
    ``covariates`` ``(batch, frame + lead, y, x, channel)``, never NaN. Height and width are any multiples of ``patch``.

    Outputs, by name: ``forecast`` ``(batch, lead, y, x, quantity * forecast band)``, quantity by quantity as
    ``spec.quantities`` names them, and, if the network attends, ``attention`` ``(batch, lead, frame, y / patch, x /
    patch)``, the mean over the heads: weights that sum to one over the frames with a valid pixel in the patch, and to
    zero where there is none. Both are float32.

    Args:
        spec: its shape.
        precision: Keras's name of a dtype policy, such as ``mixed_bfloat16``; variables are float32 whatever it is, so
            that the weights of a network fit into one of another precision.
    """
    if spec.kind == Kind.SEASONAL:
        return build_seasonal(spec.attention_units)
    inputs = _inputs(spec)
    bands = len(spec.bands_out)
    newest = NewestValid(spec.bands_out, name="newest", **EXACT)(*(inputs[name] for name in FRAMES))
    features, outputs = _features(spec, inputs, precision) if spec.recurs else (None, {})
    if spec.kind == Kind.PIXEL_LSTM:
        forecast = PixelHead(bands, spec.filters, name="head", **EXACT)(features, newest[0])
    else:
        units = 0 if spec.kind == Kind.CASCADE else spec.head_units
        scales = PixelScales(bands, spec.patch, name="scales", **EXACT)
        shape = {
            "levels": spec.levels,
            "units": units,
            "anchored": spec.anchored,
            "features": spec.filters if spec.recurs else 0,
        }
        head = CascadeHead(bands, spec.horizon, scales.scales, **shape, patch=spec.patch, name="head", **EXACT)
        pixels = scales(*newest)
        forecast = head(pixels) if features is None else head(pixels, features)
    return keras.Model(inputs, {"forecast": forecast, **outputs}, name=f"{spec.kind}_network")


def _inputs(spec: NetworkSpec) -> dict[str, Tensor]:
    shape = (spec.context_frames, None, None, spec.bands_in)
    inputs = {
        "frames": keras.Input(shape, name="frames"),
        "validity": keras.Input(shape, name="validity"),
        "ages": keras.Input((spec.context_frames,), name="ages"),
    }
    if spec.covariates:
        steps = (spec.context_frames + spec.horizon, None, None, spec.covariates)
        inputs["covariates"] = keras.Input(steps, name="covariates")
    return inputs


def _features(spec: NetworkSpec, inputs: dict[str, Tensor], precision: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Features of each lead at patches, and what the network shows besides its forecast."""
    own: Any = {"dtype": precision}
    frames, validity, ages = inputs["frames"], inputs["validity"], inputs["ages"]
    of_frames, of_leads = _told(spec, inputs, own)
    side = 1 if spec.kind == Kind.PIXEL_LSTM else 3
    shape = (spec.filters, spec.patch, side, spec.covariates)
    patches = FramePatches(*shape, name="patches", **own)(frames, validity, ages, *of_frames)
    lead_shape = (spec.horizon, spec.filters, spec.covariates)
    if not spec.attends:
        states, memory = ConvLSTM(spec.filters, side, name="encoder", **own)(patches)
        decoder = Decoder(*lead_shape, kernel_size=side, name="decoder", **own)
        return decoder(states, memory, *of_leads), {}
    usable = PatchMask(spec.patch, name="usable", **own)(validity)
    attention = {"units": spec.attention_units, "kernel_size": spec.attention_kernel}
    attention |= {"reduction": spec.attention_reduction}
    if spec.kind == Kind.DOT_PRODUCT:
        states = StackedConvLSTM(spec.filters, name="encoder", **own)(patches)
        attention |= {"heads": spec.attention_heads}
        decoder = DotProductDecoder(*lead_shape, attention=attention, name="decoder", **own)
        features, weights = decoder(states, usable, ages, *of_leads)
    else:
        states, memory = ConvLSTM(spec.filters, name="encoder", **own)(patches)
        decoder = AttentionDecoder(*lead_shape, attention=attention, name="decoder", **own)
        features, weights = decoder(states, memory, usable, ages, *of_leads)
    return features, {"attention": keras.layers.Identity(name="attention", **EXACT)(weights)}


def _told(spec: NetworkSpec, inputs: dict[str, Tensor], own: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Covariates of the frames and of the leads, at patches: one tensor each, or none."""
    if not spec.covariates:
        return [], []
    of_frames, of_leads = CovariatePatches(spec.context_frames, spec.patch, name="told", **own)(inputs["covariates"])
    return [of_frames], [of_leads]


def matched(spec: NetworkSpec, kind: str) -> NetworkSpec:
    """The network of another kind with as near as possible the same number of parameters: its filters are chosen.

    A ``pixel_lstm`` gets patches of one pixel; the other way round they stay so.
    """
    other = replace(spec, kind=kind, patch=1 if kind == Kind.PIXEL_LSTM else spec.patch)
    wanted = parameters(spec)
    # a weight's size has the filters as factor twice, once or never: three counts tell the number for all others
    law = np.polyfit((1, 2, 3), [parameters(replace(other, filters=filters)) for filters in (1, 2, 3)], deg=2)
    candidates = np.arange(1, 2 + int(np.roots(law - [0, 0, wanted]).real.max(initial=1)))
    nearest = candidates[np.abs(np.polyval(law, candidates) - wanted).argmin()]
    return replace(other, filters=int(nearest))


def parameters(spec: NetworkSpec) -> int:
    """How many numbers its training chooses."""
    return sum(int(np.prod(weight.shape)) for weight in build(spec).trainable_weights)

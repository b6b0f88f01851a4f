"""Network builders: numbers in, a keras.Model out; they know no cube and no configuration file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import keras

from models.attention import AdditiveTemporalAttention, AttentionKeys
from models.convlstm import ConvLSTM, ConvLSTMCell
from models.frames import NewestValid, PatchMask, Shape, Tensor, age_features, fold, unfold
from models.pyramid import ScaleHead, coarse_dilations

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """All that decides the shape of an attention ConvLSTM.

    Attributes:
        context_frames: frames that it sees.
        horizon: leads that it forecasts, one slot apart.
        bands_in: bands of a frame.
        bands_out: indices of the bands that it forecasts.
        patch: side of the patches that its state lives on, pixels.
        filters: channels of its state.
        attention_units: channels of its attention.
    """

    context_frames: int
    horizon: int
    bands_in: int
    bands_out: tuple[int, ...]
    patch: int = 4
    filters: int = 24
    attention_units: int = 16

    def __post_init__(self) -> None:
        for name in ("context_frames", "horizon", "bands_in", "patch", "filters", "attention_units"):
            if getattr(self, name) < 1:
                msg = f"{name} of a network is at least 1, found {getattr(self, name)}"
                raise ValueError(msg)
        if not self.bands_out or not set(self.bands_out) <= set(range(self.bands_in)):
            rule = f"bands_out are indices of the {self.bands_in} input bands, counted from 0, at least one"
            msg = f"{rule}; found {self.bands_out}"
            raise ValueError(msg)

    def receptive_radius(self) -> int:
        """How far an output pixel can see, in pixels: a bound, and a multiple of ``patch``.

        A tile that is grown by it, and starts on a whole patch, gives the same forecast as the whole image.
        """
        recurrent = 1 + self.context_frames + self.horizon  # 3 x 3: the encoder's, one a frame, one a lead
        smoothing = 2 * sum(coarse_dilations(self.patch))  # five taps at each distance
        return self.patch * (max(recurrent, smoothing) + 2)  # one patch to enlarge, one for the place within a patch

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return {**asdict(self), "bands_out": list(self.bands_out)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`as_dict`.

        >>> spec = NetworkSpec(4, 6, 2, (0, 1))
        >>> NetworkSpec.from_dict(spec.as_dict()) == spec
        True
        """
        return cls(**{**values, "bands_out": tuple(values["bands_out"])})


def build(spec: NetworkSpec) -> keras.Model:
    """Untrained attention ConvLSTM: it returns the newest valid frame for every lead until it is trained.

    It works in Lagrangian coordinates and on normalised values: the frames have been moved along the motion to the init
    time, and the forecast for each lead is still to be moved on.

    Inputs, by name: ``frames`` ``(batch, frame, y, x, band)``, oldest first, 0 where invalid; ``validity``, same shape,
    1 or 0; ``ages`` ``(batch, frame)`` in slots, finite also for missing frames. Height and width are any multiples of
    ``patch``.

    Outputs, by name: ``forecast`` ``(batch, lead, y, x, forecast band)``; ``attention`` ``(batch, lead, frame,
    y / patch, x / patch)``, weights that sum to one over the frames with a valid pixel in the patch, and to zero where
    there is none.
    """
    shape = (spec.context_frames, None, None, spec.bands_in)
    frames, validity = keras.Input(shape, name="frames"), keras.Input(shape, name="validity")
    ages = keras.Input((spec.context_frames,), name="ages")
    states, memory = Encoder(spec.filters, spec.patch, name="encoder")(frames, validity, ages)
    usable = PatchMask(spec.patch, name="usable")(validity)
    decoder = AttentionDecoder(spec.horizon, spec.filters, spec.attention_units, name="decoder")
    features, attention = decoder(states, memory, usable, ages)
    exact = {"dtype": "float32"}  # whatever the policy: a field rounded to 16 bit is no extrapolation
    values, known = NewestValid(spec.bands_out, name="newest", **exact)(frames, validity, ages)
    forecast = ScaleHead(len(spec.bands_out), spec.patch, name="head", **exact)(features, values, known)
    inputs = {"frames": frames, "validity": validity, "ages": ages}
    return keras.Model(inputs, {"forecast": forecast, "attention": attention}, name="attention_convlstm")


@keras.saving.register_keras_serializable(package="cubecast")
class Encoder(keras.layers.Layer):
    """Patches of each frame, with its age, through a ConvLSTM.

    Call with ``frames`` and ``validity`` ``(batch, frame, y, x, band)`` and ``ages`` ``(batch, frame)``; returns the
    hidden states ``(batch, frame, y / patch, x / patch, filters)`` and the final cell state.

    Args:
        filters: channels of the state.
        patch: side of a patch, pixels.
    """

    def __init__(self, filters: int, patch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.patch = patch
        own: Any = {"dtype": self.dtype_policy}
        self.patches = keras.layers.Conv2D(
            filters, patch, strides=patch, name="patches", **own
        )  # space to depth, then dense
        self.of_ages = keras.layers.Dense(filters, use_bias=False, name="of_ages", **own)
        self.texture = keras.layers.Conv2D(filters, 3, padding="same", activation="silu", name="texture", **own)
        self.recurrence = ConvLSTM(filters, name="recurrence", **own)

    def build(self, input_shape: Shape) -> None:
        """Weights for frames of ``input_shape``."""
        _, frames, _, _, bands = input_shape
        state = (None, None, None, self.filters)
        self.patches.build((None, None, None, 2 * bands))
        self.of_ages.build((None, frames, 2))
        self.texture.build(state)
        self.recurrence.build((None, frames, *state[1:]))

    def call(self, frames: Tensor, validity: Tensor, ages: Tensor) -> tuple[Tensor, Tensor]:
        """See the class.

        Raises:
            ValueError: height or width is no multiple of the patch.
        """
        self._check_size(frames.shape[2:4])
        patches = self.patches(fold(ops.concatenate([frames, validity], axis=-1)))
        aged = patches + fold(self.of_ages(age_features(ages)))[:, None, None, :]
        return self.recurrence(unfold(self.texture(ops.silu(aged)), frames.shape[1]))

    def compute_output_shape(
        self, frames_shape: Shape, validity_shape: Shape, ages_shape: Shape
    ) -> tuple[Shape, Shape]:
        """``(batch, frame, y / patch, x / patch, filters)`` and the same without frames."""
        batch, frames, y, x, _ = frames_shape
        state = (y and y // self.patch, x and x // self.patch, self.filters)
        return (batch, frames, *state), (batch, *state)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "filters": self.filters, "patch": self.patch}

    def _check_size(self, size: Shape) -> None:
        if any(side is not None and side % self.patch for side in size):
            msg = f"height and width are multiples of the patch ({self.patch} px), found {size}: pad them"
            raise ValueError(msg)


@keras.saving.register_keras_serializable(package="cubecast")
class AttentionDecoder(keras.layers.Layer):
    """One step a lead: the state asks the encoder's frames, and their answer is the step's input.

    Call with the encoder's hidden ``states`` ``(batch, frame, y, x, filters)`` and final cell state ``memory``,
    ``usable`` ``(batch, frame, y, x)``, 1 where a frame may be attended to, and ``ages`` ``(batch, frame)``. Returns
    the features of each lead, its state joined with its context, ``(batch, lead, y, x, 2 * filters)``, and its weights
    ``(batch, lead, frame, y, x)``.

    Args:
        horizon: number of leads.
        filters: channels of the state.
        attention_units: channels of the attention.
    """

    def __init__(self, horizon: int, filters: int, attention_units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.horizon = horizon
        self.filters = filters
        self.attention_units = attention_units
        own: Any = {"dtype": self.dtype_policy}
        self.keys = AttentionKeys(attention_units, name="keys", **own)
        self.attention = AdditiveTemporalAttention(attention_units, name="attention", **own)
        self.cell = ConvLSTMCell(filters, name="cell", **own)

    def build(self, input_shape: Shape) -> None:
        """Weights for states of ``input_shape``."""
        state = (input_shape[0], *input_shape[2:])
        self.keys.build(input_shape)
        self.attention.build(state)
        self.cell.build(state)
        self.leads = self.add_weight(shape=(self.horizon, self.filters), initializer="glorot_uniform", name="leads")

    def call(self, states: Tensor, memory: Tensor, usable: Tensor, ages: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        keys, hidden = self.keys(states, ages), states[:, -1]
        features, weights = [], []
        for lead in range(self.horizon):
            context, wanted = self.attention(hidden, keys, states, usable)
            hidden, memory = self.cell(context + self.leads[lead], (hidden, memory))
            features.append(ops.concatenate([hidden, context], axis=-1))
            weights.append(wanted)
        return ops.stack(features, axis=1), ops.stack(weights, axis=1)

    def compute_output_shape(
        self, states_shape: Shape, memory_shape: Shape, usable_shape: Shape, ages_shape: Shape
    ) -> tuple[Shape, Shape]:
        """``(batch, lead, y, x, 2 * filters)`` and ``(batch, lead, frame, y, x)``."""
        batch, frames, y, x, _ = states_shape
        return (batch, self.horizon, y, x, 2 * self.filters), (batch, self.horizon, frames, y, x)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        own = {"horizon": self.horizon, "filters": self.filters, "attention_units": self.attention_units}
        return {**super().get_config(), **own}

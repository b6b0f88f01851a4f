"""Decoders and the plain head: the encoder's states become features of each lead, and those a forecast."""

from __future__ import annotations

from typing import Any

import keras

from models.attention import AdditiveTemporalAttention, AttentionKeys, DotProductTemporalAttention
from models.convlstm import ConvLSTMCell
from models.frames import Shape, Tensor, fold, unfold

ops: Any = keras.ops  # untyped: pyright takes the results of its functions for None


@keras.saving.register_keras_serializable(package="cubecast")
class RecurrentCell(ConvLSTMCell):
    """A :class:`~models.convlstm.ConvLSTMCell` without an input convolution: its inputs are sums for the gates."""

    def build(self, input_shape: Shape) -> None:
        """Weights for states of ``input_shape``."""
        window, gates = (self.kernel_size, self.kernel_size), 4 * self.filters
        self.recurrent_kernel = self.add_weight(
            shape=(*window, self.filters, gates), initializer="orthogonal", name="recurrent_kernel"
        )
        self.bias = self.add_weight(shape=(gates,), initializer=self._forget_nothing, name="bias")

    def project(self, inputs: Tensor) -> Tensor:
        """The inputs are projected already: only the bias is added."""
        return inputs + self.bias


class _LeadDecoder(keras.layers.Layer):
    """One ConvLSTM step a lead, from the encoder's last state on."""

    def __init__(self, horizon: int, filters: int, covariates: int = 0, *, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.horizon = horizon
        self.filters = filters
        self.covariates = covariates
        self.kernel_size = kernel_size
        self.cell = RecurrentCell(filters, kernel_size, name="cell", dtype=self.dtype_policy)
        self.of_covariates = self._gates("of_covariates")

    def build(self, input_shape: Shape) -> None:
        """Weights for states of ``input_shape``."""
        batch, _, y, x, _ = input_shape
        self.cell.build((batch, y, x, self.filters))
        # the embedding of each lead, already projected to the gates
        self.leads = self.add_weight(shape=(self.horizon, 4 * self.filters), initializer="glorot_uniform", name="leads")
        if self.covariates:
            self.of_covariates.build((batch, self.horizon, y, x, self.covariates))

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        names = ("horizon", "filters", "covariates", "kernel_size")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _gates(self, name: str) -> Any:
        """A 1x1 convolution onto the gates."""
        return keras.layers.Dense(4 * self.filters, use_bias=False, name=name, dtype=self.dtype_policy)

    def _beforehand(self, told: Tensor | None) -> list[Tensor]:
        """What is known of each lead beforehand, as it adds to the gates: ``(batch or 1, y or 1, x or 1, gates)``."""
        known = self.cell.project(self.leads)[None, :, None, None, :]
        if told is not None:
            known = known + self.of_covariates(told)
        return ops.unstack(known, self.horizon, axis=1)


@keras.saving.register_keras_serializable(package="cubecast")
class Decoder(_LeadDecoder):
    """One ConvLSTM step a lead, from the encoder's last state on; its input is what is known of the lead beforehand.

    Call with the encoder's hidden ``states`` ``(batch, frame, y, x, filters)``, its final cell state ``memory``, and,
    where there are covariates, ``told`` ``(batch, lead, y, x, covariates)``. Returns the features of each lead
    ``(batch, lead, y, x, filters)``.

    Args:
        horizon: number of leads.
        filters: channels of the state.
        covariates: channels of what is told of a lead; 0 where nothing is.
        kernel_size: side of the convolution over the state.
    """

    def call(self, states: Tensor, memory: Tensor, told: Tensor | None = None) -> Tensor:
        """See the class."""
        hidden, features = states[:, -1], []
        gates = (*ops.shape(memory)[:-1], 4 * self.filters)
        for known in self._beforehand(told):
            hidden, memory = self.cell.advance(ops.broadcast_to(known, gates), (hidden, memory))
            features.append(hidden)
        return ops.stack(features, axis=1)

    def compute_output_shape(self, states_shape: Shape, memory_shape: Shape, told_shape: Shape | None = None) -> Shape:
        """``(batch, lead, y, x, filters)``."""
        batch, _, y, x, _ = states_shape
        return batch, self.horizon, y, x, self.filters


@keras.saving.register_keras_serializable(package="cubecast")
class AttentionDecoder(_LeadDecoder):
    """One ConvLSTM step a lead, before which the state asks the encoder's frames; the answer is joined to the state.

    The gates of a step are a convolution of the concatenation ``[hidden state, context, lead embedding, covariates]``
    (Bahdanau 2015, arXiv 1409.0473, appendix A.2.2, whose decoder adds the same products). It is computed as the sum of
    its parts: ``kernel_size`` wide over the hidden state, where it is the ConvLSTM's own recurrent convolution, and 1x1
    over the others. A context is a mean of states that have seen their surroundings already, and 3x3 over it made a
    training step of the whole network 11 % dearer (4 frames, 6 leads, 24 filters, 32 x 32 patches).

    Call with the encoder's hidden ``states`` ``(batch, frame, y, x, filters)`` and final cell state ``memory``,
    ``usable`` ``(batch, frame, y, x)``, 1 where a frame may be attended to, ``ages`` ``(batch, frame)`` and, where
    there are covariates, ``told`` ``(batch, lead, y, x, covariates)``. Returns the features of each lead, its state
    plus its context, which is a mean of states, ``(batch, lead, y, x, filters)``, and its weights ``(batch, lead,
    frame, y, x)``.

    Args:
        horizon: number of leads.
        filters: channels of the state.
        covariates: channels of what is told of a lead; 0 where nothing is.
        attention: arguments of :class:`~models.attention.AdditiveTemporalAttention`.
        kernel_size: side of the convolution over the state.
    """

    def __init__(
        self,
        horizon: int,
        filters: int,
        covariates: int = 0,
        *,
        attention: dict[str, int],
        **kwargs: Any,
    ) -> None:
        super().__init__(horizon, filters, covariates, **kwargs)
        self.keys = AttentionKeys(**attention, bias=True, name="keys", dtype=self.dtype_policy)
        self.attention = AdditiveTemporalAttention(**attention, name="attention", dtype=self.dtype_policy)
        self.of_context = self._gates("of_context")

    def build(self, input_shape: Shape) -> None:
        """Weights for states of ``input_shape``."""
        super().build(input_shape)
        state = (input_shape[0], *input_shape[2:])
        self.keys.build(input_shape)
        self.attention.build(state)
        self.of_context.build(state)

    def call(
        self, states: Tensor, memory: Tensor, usable: Tensor, ages: Tensor, told: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        keys, hidden = self.keys(states, ages), states[:, -1]
        features, weights = [], []
        for known in self._beforehand(told):
            context, wanted = self.attention(hidden, keys, states, usable)
            hidden, memory = self.cell.advance(self.of_context(context) + known, (hidden, memory))
            features.append(hidden + context)  # concatenated they would make a training step 5 % dearer
            weights.append(wanted)
        return ops.stack(features, axis=1), ops.stack(weights, axis=1)

    def compute_output_shape(
        self,
        states_shape: Shape,
        memory_shape: Shape,
        usable_shape: Shape,
        ages_shape: Shape,
        told_shape: Shape | None = None,
    ) -> tuple[Shape, Shape]:
        """``(batch, lead, y, x, filters)`` and ``(batch, lead, frame, y, x)``."""
        batch, frames, y, x, _ = states_shape
        return (batch, self.horizon, y, x, self.filters), (batch, self.horizon, frames, y, x)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "attention": self.attention.shape}


@keras.saving.register_keras_serializable(package="cubecast")
class DotProductDecoder(keras.layers.Layer):
    """All leads at once: each asks the encoder's frames with its own query, and joins the answer to the last state.

    The query of a lead is the last state plus what is known of the lead beforehand: its embedding and its covariates.

    Call with the encoder's hidden ``states`` ``(batch, frame, y, x, filters)``, ``usable`` ``(batch, frame, y, x)``, 1
    where a frame may be attended to, ``ages`` ``(batch, frame)`` and, where there are covariates, ``told`` ``(batch,
    lead, y, x, covariates)``. Returns the features of each lead ``(batch, lead, y, x, filters)``, a convolution over
    state and context, and its weights ``(batch, lead, frame, y, x)``, the mean over the heads.

    Args:
        horizon: number of leads.
        filters: channels of the states and of the features.
        covariates: channels of what is told of a lead; 0 where nothing is.
        attention: arguments of :class:`~models.attention.DotProductTemporalAttention`; values get as many channels as
            keys.
    """

    def __init__(
        self,
        horizon: int,
        filters: int,
        covariates: int = 0,
        *,
        attention: dict[str, int],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.horizon = horizon
        self.filters = filters
        self.covariates = covariates
        own: Any = {"dtype": self.dtype_policy}
        self.attention = DotProductTemporalAttention(**attention, name="attention", **own)
        self.keys = AttentionKeys(**self.attention.shape_of_keys, bias=False, name="keys", **own)
        self.of_values = keras.layers.Dense(self.keys.units, use_bias=False, name="of_values", **own)
        self.of_covariates = keras.layers.Dense(filters, use_bias=False, name="of_covariates", **own)
        self.of_state = keras.layers.Conv2D(filters, 3, padding="same", name="of_state", **own)
        self.of_context = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name="of_context", **own)

    def build(self, input_shape: Shape) -> None:
        """Weights for states of ``input_shape``."""
        batch, _, y, x, channels = input_shape
        state = (batch, y, x, channels)
        self.keys.build(input_shape)
        self.attention.build(state)
        self.of_values.build(input_shape)
        self.of_state.build(state)
        self.of_context.build((batch, y, x, self.keys.units))
        self.leads = self.add_weight(shape=(self.horizon, self.filters), initializer="glorot_uniform", name="leads")
        if self.covariates:
            self.of_covariates.build((batch, self.horizon, y, x, self.covariates))

    def call(self, states: Tensor, usable: Tensor, ages: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the class."""
        keys, values, last = self.keys(states, ages), self.of_values(states), states[:, -1]
        beforehand = self.leads[None, :, None, None, :]
        if told is not None:
            beforehand = beforehand + self.of_covariates(told)
        contexts, weights = [], []
        for known in ops.unstack(beforehand, self.horizon, axis=1):
            context, wanted = self.attention(last + known, keys, values, usable)
            contexts.append(context)
            weights.append(ops.mean(wanted, axis=-1))
        asked = unfold(self.of_context(fold(ops.stack(contexts, axis=1))), self.horizon)
        return ops.silu(self.of_state(last)[:, None] + asked + beforehand), ops.stack(weights, axis=1)

    def compute_output_shape(
        self, states_shape: Shape, usable_shape: Shape, ages_shape: Shape, told_shape: Shape | None = None
    ) -> tuple[Shape, Shape]:
        """``(batch, lead, y, x, filters)`` and ``(batch, lead, frame, y, x)``."""
        batch, frames, y, x, _ = states_shape
        return (batch, self.horizon, y, x, self.filters), (batch, self.horizon, frames, y, x)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        own = {"horizon": self.horizon, "filters": self.filters, "covariates": self.covariates}
        return {**super().get_config(), **own, "attention": self.attention.shape}


@keras.saving.register_keras_serializable(package="cubecast")
class PixelHead(keras.layers.Layer):
    """Forecast as the newest value of each pixel plus a correction, which starts at zero; no pixel sees another.

    Call with ``features`` ``(batch, lead, y, x, channel)`` and ``values`` ``(batch, y, x, 2 * bands)`` of
    :class:`models.frames.NewestValid`; returns ``(batch, lead, y, x, bands)``.

    Args:
        bands: number of bands of the forecast.
        units: channels between the two 1x1 convolutions.
    """

    def __init__(self, bands: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bands = bands
        self.units = units
        own: Any = {"dtype": self.dtype_policy}
        self.hidden = keras.layers.Dense(units, activation="silu", name="hidden", **own)
        self.correction = keras.layers.Dense(bands, kernel_initializer="zeros", name="correction", **own)

    def build(self, input_shape: Shape) -> None:
        """Weights for features of ``input_shape``."""
        self.hidden.build(input_shape)
        self.correction.build((*input_shape[:-1], self.units))

    def call(self, features: Tensor, values: Tensor) -> Tensor:
        """See the class."""
        return values[:, None, ..., : self.bands] + self.correction(self.hidden(features))

    def compute_output_shape(self, features_shape: Shape, values_shape: Shape) -> Shape:
        """``(batch, lead, y, x, bands)``."""
        return (*features_shape[:-1], self.bands)

    def get_config(self) -> dict[str, Any]:
        """What ``from_config`` needs."""
        return {**super().get_config(), "bands": self.bands, "units": self.units}

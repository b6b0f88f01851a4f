"""A training step of a ConvLSTM layer against keras.layers.ConvLSTM2D, the convolution ceiling and eager PyTorch.

A step is the forward pass and the gradients of all weights and of the inputs, which have as many channels as the state.
Contenders of a size take their steps in turn in one fresh process, each after steps that do not count. The ceiling is
the rate at which plain convolutions of all frames at once, of the layer's sizes, make forward pass and both gradients;
the layer's own rate counts what it has to compute: of its first step no recurrent convolution.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import Bar, Figure, answer, cost, in_fresh_process, in_turn, ratios, report

REPEATS = 5
WARM = 3  # steps that do not count: the first builds the graph, oneDNN's caches fill in the next
KERNEL = 3
OURS, HALF, KERAS, CEILING, TORCH = "ours", "ours, bfloat16", "Keras", "plain convolutions", "PyTorch, eager"
NEVER_SLOWER = Bar(1, at_least=True)
SHARE, HALF_BAR = Bar(0.75, at_least=True), Bar(1.8, at_least=True)


@dataclass(frozen=True, slots=True)
class Size:
    """One latent grid, and the least ratio to Keras there."""

    side: int
    filters: int
    bar: Bar = NEVER_SLOWER
    batch: int = 4
    frames: int = 4
    contenders: tuple[str, ...] = (OURS, KERAS)
    steps: int = 1  # a measurement

    def __str__(self) -> str:
        return f"{self.side} x {self.side}, {self.filters} filters, {self.frames} frames"

    @property
    def layer_work(self) -> float:
        """GFLOP of a step: convolutions alone."""
        return self._convolutions(2 * self.frames - 1)

    @property
    def ceiling_work(self) -> float:
        """GFLOP of the plain convolutions."""
        return self._convolutions(self.frames)

    def _convolutions(self, frames: int) -> float:
        """Forward, data gradient and weight gradient, a multiplication and an addition each."""
        return 3 * 2e-9 * KERNEL**2 * self.filters * 4 * self.filters * self.side**2 * self.batch * frames


AGAINST_ALL = (OURS, HALF, KERAS, CEILING)
SIZES = (
    Size(16, 32, Bar(1.5, at_least=True), contenders=AGAINST_ALL, steps=10),
    Size(16, 32, frames=10, steps=4),
    Size(16, 64, steps=4),
    Size(32, 32, steps=3),
    Size(64, 64, Bar(1.05, at_least=True), batch=2, contenders=AGAINST_ALL),
)
TINY = (Size(6, 2, batch=2, frames=2, contenders=AGAINST_ALL), Size(5, 2, batch=1, frames=3))


def run_task(task: dict[str, Any]) -> dict[str, list[float]]:
    """CPU-seconds a step of each contender."""
    size = Size(**{**task["size"], "bar": NEVER_SLOWER})
    steps = {name: STEPS[name](size) for name in size.contenders}
    for step in steps.values():
        for _ in range(WARM):
            step()
    return in_turn({name: partial(_seconds, step, size.steps) for name, step in steps.items()}, task["repeats"])


def _seconds(step: Callable[[], object], steps: int) -> float:
    return cost(lambda: [step() for _ in range(steps)]).cpu / steps


def _data(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Frames, and the gradient of the hidden states."""
    shape = (size.batch, size.frames, size.side, size.side, size.filters)
    frames, upstream = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    return frames, upstream


def _ours(size: Size, precision: str) -> Callable[[], object]:
    from models.convlstm import ConvLSTM

    return _layer_step(ConvLSTM(size.filters, KERNEL, dtype=precision), size)


def _keras(size: Size) -> Callable[[], object]:
    import keras

    options: dict[str, Any] = {"recurrent_activation": "sigmoid", "return_sequences": True, "return_state": True}
    return _layer_step(keras.layers.ConvLSTM2D(size.filters, KERNEL, padding="same", **options), size)


def _layer_step(layer: Any, size: Size) -> Callable[[], object]:
    """The same weights in every layer."""
    tf: Any = import_module("tensorflow")
    frames, upstream = map(tf.constant, _data(size))
    layer(frames)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=weight.shape, scale=0.05) for weight in layer.get_weights()])

    @tf.function
    def step(frames: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(frames)
            states = layer(frames, training=True)[0]
        sources = [frames, *(weight.value for weight in layer.trainable_variables)]
        return states, tape.gradient(states, sources, tf.cast(upstream, states.dtype))

    return partial(step, frames)


def _ceiling(size: Size) -> Callable[[], object]:
    tf: Any = import_module("tensorflow")
    rng = np.random.default_rng(1)
    images = tf.constant(_data(size)[0].reshape(-1, size.side, size.side, size.filters))
    kernel = tf.constant(rng.normal(size=(KERNEL, KERNEL, size.filters, 4 * size.filters)).astype(np.float32))
    upstream = tf.constant(rng.normal(size=(*images.shape[:-1], 4 * size.filters)).astype(np.float32))

    @tf.function
    def step(images: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((images, kernel))
            gates = tf.nn.conv2d(images, kernel, 1, "SAME")
        return gates, tape.gradient(gates, (images, kernel), upstream)

    return partial(step, images)


def _torch(size: Size) -> Callable[[], object]:
    """As it is commonly written: one convolution a step, over frame and hidden state joined."""
    torch: Any = import_module("torch")
    torch.set_num_threads(1)  # its threads spin while they wait: on a busy machine up to 16 times the CPU-seconds
    frames, upstream = (torch.tensor(np.moveaxis(values, -1, 2).copy()) for values in _data(size))
    frames.requires_grad_()
    gates_of = torch.nn.Conv2d(2 * size.filters, 4 * size.filters, KERNEL, padding="same")

    def step() -> object:
        hidden = memory = torch.zeros_like(frames[:, 0])
        states = []
        for frame in frames.unbind(1):
            admit, keep, candidate, show = gates_of(torch.cat([frame, hidden], 1)).chunk(4, 1)
            memory = keep.sigmoid() * memory + admit.sigmoid() * candidate.tanh()
            hidden = show.sigmoid() * memory.tanh()
            states.append(hidden)
        return torch.autograd.grad(torch.stack(states, 1), [frames, *gates_of.parameters()], upstream)

    return step


STEPS: dict[str, Callable[[Size], Callable[[], object]]] = {
    OURS: partial(_ours, precision="float32"),
    HALF: partial(_ours, precision="mixed_bfloat16"),
    KERAS: _keras,
    CEILING: _ceiling,
    TORCH: _torch,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes build/bench/convlstm.json."""
    options = _options(arguments)
    if options.task:
        answer(run_task(json.loads(options.task)))
        return
    figures = [figure for size in (TINY if options.tiny else SIZES) for figure in _figures(options, size)]
    report("convlstm", figures, options.results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--tiny", action="store_true", help="layers of a few pixels, to see that it runs")
    parser.add_argument("--folder", type=Path, help="ignored: it writes nothing but its results")
    parser.add_argument("--results", type=Path, help="instead of build/bench")
    parser.add_argument("--here", action="store_true", help="in this process: quick and inexact")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _figures(options: argparse.Namespace, size: Size) -> list[Figure]:
    seconds = _measured(options, size) | _measured_torch(options, size)
    figures = [Figure(f"{size}: {name}", [1e3 * one for one in each], "CPU-ms") for name, each in seconds.items()]
    figures.append(Figure(f"{size}: Keras / ours", ratios(seconds[KERAS], seconds[OURS]), "", size.bar))
    if HALF in seconds:
        figures.append(Figure(f"{size}: Keras / ours, bfloat16", ratios(seconds[KERAS], seconds[HALF]), "", HALF_BAR))
    if CEILING in seconds:
        figures += _share(size, seconds)
    if TORCH in seconds:
        figures.append(Figure(f"{size}: PyTorch / ours", ratios(seconds[TORCH], seconds[OURS]), ""))
    return figures


def _share(size: Size, seconds: dict[str, list[float]]) -> list[Figure]:
    rates = [size.layer_work / one for one in seconds[OURS]]
    ceilings = [size.ceiling_work / one for one in seconds[CEILING]]
    bar = SHARE if size.side == SIZES[-1].side else None
    return [
        Figure(f"{size}: ceiling", ceilings, "GFLOP / CPU-s"),
        Figure(f"{size}: ours / ceiling", ratios(rates, ceilings), "", bar),
    ]


def _measured_torch(options: argparse.Namespace, size: Size) -> dict[str, list[float]]:
    """For the record, in a process of its own: two libraries' threads in one would get in each other's way."""
    if find_spec("torch") is None:
        sys.stderr.write("PyTorch is not installed: left out\n")
        return {}
    return _measured(options, replace(size, contenders=(TORCH,)))


def _measured(options: argparse.Namespace, size: Size) -> dict[str, list[float]]:
    values = {name: value for name, value in asdict(size).items() if name != "bar"}
    task = {"size": values, "repeats": options.repeats}
    return run_task(task) if options.here else in_fresh_process(__file__, task)


if __name__ == "__main__":
    main()

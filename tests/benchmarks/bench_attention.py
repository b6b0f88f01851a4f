"""A training step of each network, 4 frames, 6 leads, 4 chips of 128 px, 24 filters: CPU-seconds, and peak memory.

Contenders take their steps in turn in one process, each after steps that do not count; peaks are of a process each.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import Bar, Figure, answer, cost, in_fresh_process, in_turn, ratios, report

REPEATS = 5
STEPS = 3  # a measurement
WARM = 3  # steps that do not count: the first builds the graph, oneDNN's caches fill in the next
PLAIN, ATTENTION = "convlstm", "attention"
CONTENDERS: dict[str, dict[str, Any]] = {
    PLAIN: {"kind": "convlstm"},
    ATTENTION: {"kind": "attention"},
    "attention, kernel 3": {"kind": "attention", "attention_kernel": 3},
    "attention, reduction 2": {"kind": "attention", "attention_reduction": 2},
    "attention, reduction 4": {"kind": "attention", "attention_reduction": 4},
    "dot product": {"kind": "dot_product"},
}
PATCHES = (1, 2, 4)
ADDED, MEMORY = Bar(1.2), Bar(1.2)
# freed tensors go back to the system at once, so that a peak is of what lives at the same time
RETURN_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",  # oneDNN otherwise keeps what it once had
}


def run_task(task: dict[str, Any]) -> dict[str, list[float]]:
    """Of each contender, CPU-seconds a step, or with ``peaks`` MiB that a step needs beyond what is there before it."""
    steps = {name: _step(shape, task) for name, shape in task["contenders"].items()}
    for step in steps.values():
        for _ in range(WARM):
            step()
    measure = _peak if task["peaks"] else _seconds
    return in_turn({name: partial(measure, step) for name, step in steps.items()}, task["repeats"])


def _seconds(step: Callable[[], object]) -> float:
    return cost(lambda: [step() for _ in range(STEPS)]).cpu / STEPS


def _peak(step: Callable[[], object]) -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return cost(step).peak - pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _step(shape: dict[str, Any], task: dict[str, Any]) -> Callable[[], object]:
    import keras

    from models.losses import MaskedMeanSquaredError
    from models.networks import NetworkSpec, build
    from models.prediction import network_inputs

    keras.utils.set_random_seed(0)
    spec = NetworkSpec(4, 6, 1, (0,), **{"filters": task["filters"], **shape})
    whole: Any = build(spec, task["precision"])
    model: Any = keras.Model(whole.inputs, whole.output["forecast"])
    optimizer = keras.optimizers.AdamW(1e-3, clipnorm=1.0)
    model.compile(optimizer=optimizer, loss=MaskedMeanSquaredError(), jit_compile=False)
    random, batch, chip = np.random.default_rng(0), task["batch"], task["chip"]
    frames, targets = (random.normal(size=(batch, steps, chip, chip, 1)).astype(np.float32) for steps in (4, 6))
    ages = np.tile(np.arange(3, -1, -1, dtype=np.float32), (batch, 1))
    return partial(model.train_on_batch, network_inputs(frames, ages, spec.patch), targets)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes build/bench/attention.json."""
    options = _options(arguments)
    if options.task:
        answer(run_task(json.loads(options.task)))
        return
    report("attention", [*_costs(options), *_patches(options), *_memory(options)], options.results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--chip", type=int, default=128, help="px")
    parser.add_argument("--batch", type=int, default=4, help="chips a step")
    parser.add_argument("--filters", type=int, default=24)
    parser.add_argument("--precision", default="float32", help="a Keras dtype policy")
    parser.add_argument("--folder", type=Path, help="ignored: it writes nothing but its results")
    parser.add_argument("--results", type=Path, help="instead of build/bench")
    parser.add_argument("--here", action="store_true", help="in this process: quick and inexact")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _costs(options: argparse.Namespace) -> list[Figure]:
    seconds = _measured(options, CONTENDERS)
    figures = [Figure(f"{name}, a step", [1e3 * one for one in values], "CPU-ms") for name, values in seconds.items()]
    compared = {name: ratios(values, seconds[PLAIN]) for name, values in seconds.items() if name != PLAIN}
    bars = {ATTENTION: ADDED}
    return figures + [Figure(f"{name} / {PLAIN}", each, "", bars.get(name)) for name, each in compared.items()]


def _patches(options: argparse.Namespace) -> list[Figure]:
    """A quarter of the chip and half the batch: a patch of one pixel costs 16 times that of four."""
    chip, batch = options.chip // 2, max(options.batch // 2, 1)
    shapes = {f"attention, patch {patch}": {"kind": "attention", "patch": patch} for patch in PATCHES}
    seconds = _measured(options, shapes, chip=chip, batch=batch)
    pixels = batch * chip**2
    return [
        Figure(f"{name}, a step", [1e6 * one / pixels for one in each], "CPU-us / px") for name, each in seconds.items()
    ]


def _memory(options: argparse.Namespace) -> list[Figure]:
    peaks: dict[str, list[float]] = {}
    os.environ.update(RETURN_MEMORY)  # for the processes that it starts
    for name in (PLAIN, ATTENTION, "dot product"):
        peaks |= _measured(options, {name: CONTENDERS[name]}, peaks=True)
    figures = [Figure(f"{name}, peak of a step", values, "MiB") for name, values in peaks.items()]
    return [*figures, Figure(f"{ATTENTION} / {PLAIN}, peak", ratios(peaks[ATTENTION], peaks[PLAIN]), "", MEMORY)]


def _measured(
    options: argparse.Namespace, contenders: dict[str, dict[str, Any]], **changes: Any
) -> dict[str, list[float]]:
    named = {name: getattr(options, name) for name in ("repeats", "chip", "batch", "filters", "precision")}
    task = {**named, "peaks": False, "contenders": contenders, **changes}
    return run_task(task) if options.here else in_fresh_process(__file__, task)


if __name__ == "__main__":
    main()

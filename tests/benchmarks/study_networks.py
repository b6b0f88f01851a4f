"""Each network on the same data with the same processor time: errors over the test part, several seeds, the spread.

The networks have as many parameters as the default attention ConvLSTM, as nearly as whole filters allow. Each gets the
number of steps that fits the budget, so that its learning rate falls to the end. Beside them, on request, the default
network with other patches and other precision.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.config import Settings, load
from tests.benchmarks.bench import RESULTS, answer, in_fresh_process, machine

KINDS = ("attention", "convlstm", "dot_product", "pixel_lstm")
VARIANTS: dict[str, dict[str, Any]] = {
    "patch 1": {"patch": 1},
    "patch 2": {"patch": 2},
    "bfloat16": {"precision": "mixed_bfloat16"},
    "no frame hidden": {"drop_frames": 0.0},
}
EPOCHS = 8
TRIAL_STEPS = 6  # whose cost tells how many fit; the first two are not counted


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """One training and its scores, in this process."""
    from models.material import network_spec, plan, prepare
    from models.networks import build
    from models.training import fit
    from pipeline.cube import open_cube, store_of

    settings = _changed(load(Path(task["config"])), task["training"])
    settings = _changed(settings, _matched(settings))
    cube = open_cube(store_of(settings))
    material = prepare(settings, plan(settings, cube))
    cost = _step_cost(settings, material)
    steps = max(1, round(task["budget"] / cost / EPOCHS))
    schedule = {"epochs": EPOCHS, "patience": EPOCHS, "steps_per_epoch": steps, "budget": "PT2H", "seed": task["seed"]}
    settings = _changed(settings, schedule)
    material = prepare(settings, plan(settings, cube))
    began = time.process_time()
    fitted = fit(network_spec(settings), settings.training, material.training, material.validation, _Silent())
    spent = time.process_time() - began
    parameters = build(network_spec(settings)).count_params()
    facts = {"parameters": parameters, "steps": steps * EPOCHS, "step_cpu_s": cost, "cpu_s": spent}
    return facts | {"val_loss": fitted.best["val_loss"]} | _scores(settings, material, fitted.model)


def _changed(settings: Settings, training: dict[str, Any]) -> Settings:
    values = settings.training.model_dump() | training
    return settings.model_copy(update={"training": type(settings.training).model_validate(values)})


def _matched(settings: Settings) -> dict[str, Any]:
    """The filters at which the network has as many parameters as the default one."""
    from models.material import network_spec
    from models.networks import matched

    kind = settings.training.network
    if kind == "attention":
        return {}
    plain = _changed(settings, {"network": "attention", "patch": 4})
    return {"filters": matched(network_spec(plain), kind).filters}


def _step_cost(settings: Settings, material: Any) -> float:
    from models.material import network_spec
    from models.training import fit

    spent: list[float] = []
    trial = _changed(settings, {"epochs": 1, "steps_per_epoch": TRIAL_STEPS, "budget": "PT1H"})
    fit(
        network_spec(trial),
        trial.training,
        material.training,
        material.validation[:1],
        _Silent(),
        progress=lambda _: spent.append(time.process_time()),
    )
    return (spent[-1] - spent[1]) / (len(spent) - 2)


def _scores(settings: Settings, material: Any, model: Any) -> dict[str, Any]:
    from models.appraisal import MODEL, score
    from models.prediction import Network
    from pipeline.record import ModelRef

    scores = score(settings, material, Network(model, material.card, ModelRef("study", "0", "network")))
    assert scores is not None
    means = {name: (float(sums.mae.mean()), float(sums.rmse.mean())) for name, sums in scores.sums.items()}
    return {
        "mae": means[MODEL][0],
        "rmse": means[MODEL][1],
        "extrapolation_mae": means["extrapolation"][0],
        "extrapolation_rmse": means["extrapolation"][1],
        "rmse_by_lead": scores.sums[MODEL].rmse.mean(axis=-1).tolist(),
    }


class _Silent:
    """A tracker that keeps nothing."""

    def parameters(self, values: Any) -> None: ...

    def metrics(self, values: Any, step: int) -> None: ...

    def artifact(self, path: Path, folder: str) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, prints a table and writes build/bench/networks-PRODUCT.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, help="product with an ingested cube; default: made-up clouds")
    parser.add_argument("--budget", type=float, default=60, help="CPU-seconds a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", action="store_true", help="patches and precision of the default network, too")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="which networks")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time, a thread each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.task:
        answer(run_task(asked.task))
        return
    os.environ |= {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        config = asked.config or _made_up(Path(folder))
        _study(config, asked)


def _made_up(folder: Path) -> Path:
    """The demo's product, ingested."""
    from flows import verbs
    from flows.demo import write_product

    config = write_product(folder)
    verbs.ingest(config)
    return config


def _study(config: Path, asked: argparse.Namespace) -> None:
    changes = {kind: _of_kind(kind) for kind in asked.kinds} | (VARIANTS if asked.variants else {})
    tasks = [(name, seed) for seed in range(asked.seeds) for name in changes]

    def run(task: tuple[str, int]) -> dict[str, Any]:
        name, seed = task
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}, seed {seed}\n")
        said = {"config": str(config), "budget": asked.budget, "seed": seed, "training": changes[name]}
        return {"name": name, "seed": seed} | in_fresh_process(__file__, said)

    first, *others = tasks
    done = [run(first)]  # alone: it aligns the frames that all share
    with ThreadPoolExecutor(asked.jobs) as pool:
        done += pool.map(run, others)
    path = asked.results / f"networks-{load(config).product.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(["", machine(), *_table(done, list(changes)), ""]))


def _of_kind(kind: str) -> dict[str, Any]:
    # a network that sees single pixels learns as much from small chips, which take less memory
    return {"network": kind} | ({"patch": 1, "chip": 64} if kind == "pixel_lstm" else {})


def _table(done: list[dict[str, Any]], names: list[str]) -> list[str]:
    columns = ("parameters", "steps", "step_cpu_s", "val_loss", "mae", "rmse")
    head = f"{'':18}" + "".join(f"{column:>26}" for column in columns)
    lines = [head]
    for name in names:
        runs = [one for one in done if one["name"] == name]
        lines.append(f"{name:18}" + "".join(f"{_spread([run[column] for run in runs]):>26}" for column in columns))
    still = done[0]
    reference = f"{still['extrapolation_mae']:>26.4g}{still['extrapolation_rmse']:>26.4g}"
    return [*lines, f"{'extrapolation':18}{'':104}{reference}"]


def _spread(values: list[float]) -> str:
    """Mean, and the smallest and the largest.

    >>> _spread([1.0, 2.0, 6.0]), _spread([5.0, 5.0])
    ('3 (1-6)', '5')
    """
    if max(values) == min(values):
        return f"{values[0]:.4g}"
    return f"{statistics.fmean(values):.4g} ({min(values):.4g}-{max(values):.4g})"


if __name__ == "__main__":
    main()

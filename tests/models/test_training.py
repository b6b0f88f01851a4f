from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow

from models.checkpoint import PATTERN, Checkpoints
from models.losses import loss_of
from models.networks import NetworkSpec, build
from models.optimisation import Arrays
from models.pace import Clock, Pace, Stop
from models.training import Fitted, Progress, fit
from models.validation import Judge
from pipeline.chips import ChipReader, Chips
from pipeline.config import TrainingSpec
from pipeline.errors import ConfigError, Interrupted, ModelError, NotEnoughFramesError
from pipeline.grid import Window

NETWORK = NetworkSpec(2, 1, 1, (0,), patch=4, filters=4, attention_units=2, head_units=4)
SPEC = TrainingSpec(chip=16, batch=2, steps_per_epoch=1, epochs=12, learning_rate=0.02)
SHORT = SPEC.model_copy(update={"steps_per_epoch": 3, "epochs": 2, "checkpoint": timedelta(0)})
EVERYTHING: dict[str, Any] = {"accumulate": 2, "average": 0.9}  # epochs of three steps end between two updates


@dataclass
class Notes:
    """Keeps what a training says."""

    told: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)

    def parameters(self, values: Mapping[str, Any]) -> None:
        raise AssertionError(values)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.told.append((step, values))

    def artifact(self, path: Path, folder: str) -> None:
        raise AssertionError(path, folder)


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Tracing a network takes 4 CPU-s, a step without it 0.2."""
    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)


def toy(factor: float, seed: int = 0) -> Chips:
    """What comes is the newest frame, ``factor`` times as strong."""
    frames = np.random.default_rng(seed).normal(size=(1, 2, 32, 32, 1)).astype(np.float32)
    return Chips(frames, np.array([[1, 0]], np.float32), np.float32(factor) * frames[:, -1:])


def train(spec: TrainingSpec, watching: Chips | None = None, **options: Any) -> Fitted:
    reader = ChipReader((options.pop("chips", toy(0.5)),), Window(0, 32, 0, 32), (16, 16), spec.batch, spec.seed)
    validation = [reader.read(99)] if watching is None else [watching]
    return fit(NETWORK, spec, reader, validation, options.pop("notes", Notes()), **options)


def changed(spec: TrainingSpec = SPEC, **values: Any) -> TrainingSpec:
    return spec.model_copy(update=values)


def weights(fitted: Fitted) -> list[bytes]:
    return [weight.tobytes() for weight in fitted.model.get_weights()]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_an_easy_lesson_is_learned_and_the_same_seed_learns_it_alike(precision: str) -> None:
    """On one machine: equal sums in equal order, by as many threads."""
    spec = changed(steps_per_epoch=12, epochs=4, precision=precision)
    first, again = (train(spec) for _ in range(2))
    losses = [epoch["loss"] for epoch in first.history]
    assert losses[-1] < 0.5 * losses[0]
    assert first.best["val_skill"] > 0.7
    assert first.history == again.history
    assert weights(first) == weights(again)
    assert first.model.dtype_policy.name == "float32"


@pytest.mark.usefixtures("eagerly")
def test_patience_ends_a_training_that_gets_worse_and_its_best_weights_are_kept() -> None:
    watching, notes = toy(1.5), Notes()
    fitted = train(changed(patience=3), watching, notes=notes)
    errors = [epoch["val_loss"] for epoch in fitted.history]
    assert errors == sorted(errors)
    assert len(errors) == 1 + 3
    assert fitted.best == fitted.history[0]
    judge = Judge.over([watching], NETWORK, loss_of(NETWORK.levels))
    assert judge.measure(tuple(fitted.model.get_weights())).loss == pytest.approx(errors[0], rel=1e-6)


@pytest.mark.usefixtures("eagerly")
def test_each_epoch_is_told_with_what_it_cost_which_is_no_part_of_the_history() -> None:
    notes = Notes()
    fitted = train(changed(SHORT), notes=notes)
    assert [step for step, _ in notes.told] == [0, 1]
    for (_, told), entry in zip(notes.told, fitted.history, strict=True):
        assert entry.keys() == {"loss", "val_loss", "val_skill", "learning_rate"}
        assert told == entry | {name: told[name] for name in ("chips_per_second", "cpu_seconds")}
        assert told["chips_per_second"] > 0
    assert 0 < notes.told[0][1]["cpu_seconds"] < notes.told[1][1]["cpu_seconds"]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("budget", ["budget", "cpu_budget"])
def test_a_training_without_time_left_stops_at_once_with_a_result(budget: str) -> None:
    told: list[Progress] = []
    spent: dict[str, Any] = {budget: timedelta(microseconds=1)}
    fitted = train(changed(steps_per_epoch=50, **spent), progress=told.append)
    assert [(one.epoch, one.epochs, one.step, one.steps) for one in told] == [(1, 12, 1, 50)]
    assert len(fitted.history) == 1
    assert told[0].loss == pytest.approx(fitted.history[0]["loss"])


@pytest.mark.usefixtures("eagerly")
def test_a_training_of_a_single_step_is_a_training_and_its_seed_matters() -> None:
    one, other = train(changed(epochs=1)), train(changed(epochs=1, seed=1))
    assert len(one.history) == len(other.history) == 1
    assert one.history != other.history


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_diverges_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"epoch \d.*lower training\.learning_rate"):
        train(changed(learning_rate=1e30, steps_per_epoch=3))


@pytest.mark.usefixtures("eagerly")
def test_validation_without_a_pixel_to_score_is_an_error() -> None:
    blind = replace(toy(1), targets=np.full_like(toy(1).targets, np.nan))
    with pytest.raises(NotEnoughFramesError, match="none in 1 batches: check nodata and masks"):
        train(SPEC, blind)


def test_devices_that_are_not_there_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"training\.devices asks for 64"):
        train(changed(devices=64, batch=64))


# --- stopped and resumed --------------------------------------------------------------------------


@dataclass
class Interruption:
    """Raises a signal in every step, or an error in one."""

    signals: tuple[signal.Signals, ...] = ()
    crash_at: int = 0
    steps: list[int] = field(default_factory=list)

    def __call__(self, at: Progress) -> None:
        self.steps.append((at.epoch - 1) * at.steps + at.step)
        if self.steps[-1] == self.crash_at:
            raise KeyError(self.crash_at)
        for one in self.signals:
            signal.raise_signal(one)


@cache
def untouched(*, everything: bool) -> Fitted:
    """The short training that nobody stops."""
    return train(changed(SHORT, **EVERYTHING if everything else {}))


def until_finished(step: Callable[[], Fitted]) -> tuple[Fitted, int]:
    """The result of a training that is called until it ends, and how often it was stopped."""
    stops = 0
    while True:
        try:
            return step(), stops
        except Interrupted:
            stops += 1
            assert stops < 20


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(("options", "kind"), [({}, signal.SIGINT), (EVERYTHING, signal.SIGTERM)])
def test_a_training_that_is_stopped_at_every_step_ends_with_the_same_bytes(
    tmp_path: Path, options: dict[str, Any], kind: signal.Signals
) -> None:
    spec, notes, stopper = changed(SHORT, **options), Notes(), Interruption((kind,))
    whole = untouched(everything=bool(options))
    parts, stops = until_finished(lambda: train(spec, checkpoints=Checkpoints(tmp_path), progress=stopper, notes=notes))
    assert stops == 6
    assert stopper.steps == [1, 2, 3, 4, 5, 6]
    assert parts.history == whole.history
    assert weights(parts) == weights(whole)
    assert [step for step, _ in notes.told] == [0, 1]


class LateSignal(Notes):
    """Somebody wants an end while the last epoch is validated."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        super().metrics(values, step)
        if step == SHORT.epochs - 1:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("eagerly")
def test_a_signal_after_the_last_step_is_heard_and_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"step 6 of 6 by SIGTERM"):
        train(SHORT, checkpoints=Checkpoints(tmp_path), notes=LateSignal())
    rest = Interruption()
    assert train(SHORT, checkpoints=Checkpoints(tmp_path), progress=rest).history == untouched(everything=False).history
    assert not rest.steps
    assert len(train(SHORT, notes=LateSignal()).history) == 2


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("interval", "broken", "again"), [(timedelta(0), False, 5), (timedelta(0), True, 4), (timedelta(hours=1), False, 4)]
)
def test_a_crash_loses_what_came_after_the_newest_whole_checkpoint_and_nothing_else(
    tmp_path: Path, interval: timedelta, broken: bool, again: int
) -> None:
    spec = changed(SHORT, checkpoint=interval, **EVERYTHING)
    with pytest.raises(KeyError):
        train(spec, checkpoints=Checkpoints(tmp_path), progress=Interruption(crash_at=5))
    if broken:
        max(tmp_path.glob(PATTERN)).write_bytes(b"half")
    rest = Interruption()
    resumed = train(spec, checkpoints=Checkpoints(tmp_path), progress=rest)
    assert rest.steps[0] == again
    whole = untouched(everything=True)
    assert resumed.history == whole.history
    assert weights(resumed) == weights(whole)


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    first = train(SHORT, checkpoints=Checkpoints(tmp_path))
    notes, steps = Notes(), Interruption()
    again = train(SHORT, checkpoints=Checkpoints(tmp_path), notes=notes, progress=steps)
    assert again.history == first.history
    assert weights(again) == weights(first)
    assert not notes.told
    assert not steps.steps


@pytest.mark.usefixtures("eagerly")
def test_a_limit_stops_after_a_step_and_says_how_far_it_came(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"step 1 of 6 by its time limit: the same command goes on"):
        train(SHORT, checkpoints=Checkpoints(tmp_path), limit=timedelta(0))
    with pytest.raises(Interrupted, match=r"step 1 of 6 by its time limit: nothing was kept"):
        train(SHORT, limit=timedelta(0))


@pytest.mark.usefixtures("eagerly")
def test_budgets_go_on_where_they_were(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Interrupted):
        train(SHORT, checkpoints=checkpoints, limit=timedelta(0))
    state = checkpoints.newest()
    assert state is not None
    assert state.wall > 0
    assert state.cpu > 0
    checkpoints.save(replace(state, wall=SHORT.budget.total_seconds()))
    told = Interruption()
    assert len(train(SHORT, checkpoints=checkpoints, progress=told).history) == 1
    assert told.steps == [2]


@pytest.mark.usefixtures("eagerly")
def test_other_settings_or_other_data_are_another_training(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Interrupted):
        train(SHORT, checkpoints=checkpoints, limit=timedelta(0))
    with pytest.raises(ModelError, match=r"training\.learning_rate = 0\.02 instead of 0\.01: put them back"):
        train(changed(SHORT, learning_rate=0.01), checkpoints=checkpoints)
    with pytest.raises(ModelError, match="with chips = "):
        train(SHORT, checkpoints=checkpoints, chips=toy(0.4))


# --- begun with weights that were given -----------------------------------------------------------


def halving(strength: float = 0.5) -> Arrays:
    """Weights of a network that says half of the newest frame, which is what comes."""
    keras.utils.set_random_seed(5)
    model: Any = build(NETWORK)
    of_values = np.tile([strength, 0], model.get_layer("head").scales // 2)
    model.get_layer("head").cascade.assign(of_values[None, :, None])
    return tuple(model.get_weights())


@pytest.mark.usefixtures("eagerly")
def test_given_weights_are_measured_before_the_first_epoch_and_kept_where_nothing_is_better() -> None:
    spoiling, notes, steps = changed(SHORT, learning_rate=10.0), Notes(), Interruption()
    fitted = train(spoiling, initial=halving(), notes=notes, progress=steps)
    assert len(fitted.history) == 1 + spoiling.epochs
    assert fitted.best is fitted.history[0]
    assert fitted.best["val_skill"] > 0.99
    assert weights(fitted) == [weight.tobytes() for weight in halving()]
    assert [step for step, _ in notes.told] == [0, 1, 2]
    assert steps.steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("eagerly")
def test_given_weights_that_can_be_bettered_are() -> None:
    fitted = train(changed(SHORT, learning_rate=1e-3), initial=halving(0.4))
    losses = [epoch["val_loss"] for epoch in fitted.history]
    assert min(losses) < losses[0]
    assert fitted.best["val_loss"] == min(losses)


@pytest.mark.usefixtures("eagerly")
def test_a_training_of_no_epochs_measures_what_it_was_given_and_gives_it_back(tmp_path: Path) -> None:
    steps = Interruption()
    for _ in range(2):
        fitted = train(changed(epochs=0), initial=halving(), progress=steps, checkpoints=Checkpoints(tmp_path))
        assert len(fitted.history) == 1
        assert fitted.history[0]["loss"] == fitted.history[0]["val_loss"]
        assert weights(fitted) == [weight.tobytes() for weight in halving()]
    assert not steps.steps


@pytest.mark.usefixtures("eagerly")
def test_a_training_with_given_weights_that_is_stopped_at_every_step_ends_with_the_same_bytes(tmp_path: Path) -> None:
    spec, steps = changed(SHORT, steps_per_epoch=2), Interruption((signal.SIGTERM,))
    whole = train(spec, initial=halving(0.4))
    parts, stops = until_finished(
        lambda: train(spec, initial=halving(0.4), checkpoints=Checkpoints(tmp_path), progress=steps)
    )
    assert stops == 4
    assert steps.steps == [1, 2, 3, 4]
    assert parts.history == whole.history
    assert weights(parts) == weights(whole)


@pytest.mark.usefixtures("eagerly")
def test_other_given_weights_are_another_training(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Interrupted):
        train(SHORT, checkpoints=checkpoints, limit=timedelta(0), initial=halving())
    for other in (None, halving(0.4)):
        with pytest.raises(ModelError, match="with chips = "):
            train(SHORT, checkpoints=checkpoints, initial=other)


# --- signals, clocks ------------------------------------------------------------------------------


def handlers() -> list[Any]:
    return [signal.getsignal(one) for one in Stop.SIGNALS]


def test_signals_are_heard_only_while_a_training_runs() -> None:
    before = handlers()
    with Stop() as stop:
        assert handlers() != before
        assert not stop.reason
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "SIGTERM"
    assert handlers() == before


def test_a_second_signal_acts_at_once() -> None:
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    before = handlers()
    with pytest.raises(KeyboardInterrupt), Stop():  # noqa: PT012 - the second one is the point
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert handlers() == before
    signal.signal(signal.SIGINT, inherited)


def test_outside_the_main_thread_no_signal_is_touched() -> None:
    before, seen = handlers(), []

    def look() -> None:
        with Stop(timedelta(0)) as stop:
            seen.append((handlers(), stop.reason))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(before, "its time limit")]


def test_clocks_count_earlier_calls() -> None:
    clock = Clock(100, 50)
    assert 100 <= clock.wall < 110
    assert 50 <= clock.cpu < 60
    assert clock.over(changed(budget=timedelta(seconds=99)))
    assert clock.over(changed(cpu_budget=timedelta(seconds=49)))
    assert not clock.over(changed(cpu_budget=timedelta(seconds=90)))


def test_the_step_that_compiles_is_no_part_of_the_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 60.0, 60.5, 61.0, 70.0, 71.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    pace = Pace()
    pace.start()
    rates = []
    for _ in range(3):
        pace.step(4)
        rates.append(pace.rate)
    assert rates == [0, 8, 8]
    assert pace.mean == 8
    pace.start()
    pace.step(4)
    assert pace.mean == 4
    assert 4 < pace.rate < 8

"""The champion, from wherever it can be had: MLflow has the word, a checked copy on this machine stands in for it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from models.journal import MODEL_FILE
from models.keepsake import DamagedError, Files, Keepsake, Version, sha256
from models.suitability import check_fit
from pipeline.baselines import Persistence
from pipeline.config import Settings
from pipeline.errors import CubecastError, ModelError, ServiceError
from pipeline.record import ModelRef
from pipeline.rungs import Champion
from pipeline.specs import MotionSpec

if TYPE_CHECKING:
    from models.prediction import Network

CHAMPION = "champion"

Answer = TypeVar("Answer")


class Origin(StrEnum):
    """Whose files a network was loaded from."""

    MLFLOW = "mlflow"
    KEPT = "kept"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Served:
    """What could be had.

    Attributes:
        network: the champion; None: there is none or, from nowhere, none can be had.
        origin: whose files it was loaded from, and who says that there is none.
        reason: what is not as it should be, and what to do; empty: nothing.
    """

    network: Network | None
    origin: Origin
    reason: str = ""

    @property
    def why(self) -> str:
        """Why a forecast is not made by what MLflow has; empty where it is."""
        return "" if self.origin is Origin.MLFLOW else self.reason


class Source(Protocol):
    """Where models are registered; see :class:`models.registry.Registry`."""

    @property
    def uri(self) -> str:
        """Its address."""
        ...

    @property
    def answer_within(self) -> float | None:
        """Seconds that an answer may take, with everything that is downloaded; None: it answers or fails by itself."""
        ...

    def find(self, number: str | None) -> Version | None:
        """A version of the product's model, or the champion; None where there is none.

        Raises:
            ServiceError: it does not answer.
        """
        ...

    def fetch(self, version: Version) -> Files:
        """Its files.

        Raises:
            DamagedError: they cannot be read.
        """
        ...


def serve(settings: Settings, source: Source) -> Served:
    """The champion; whatever hinders that is in the reason, fit for publishing: nothing stops a forecast."""
    try:
        served = champion(settings, source)
    except Exception as error:  # noqa: BLE001 - whatever it is, there is another rung to stand on
        served = Served(None, Origin.NOWHERE, _sentence(error))
    return replace(served, reason=public(served.reason, settings))


def champion(settings: Settings, source: Source) -> Served:
    """The champion, and the copy of it brought up to date.

    Raises:
        ModelError: it does not fit the configuration, or neither MLflow's files nor the copy can be read.
        ServiceError: MLflow does not answer, and there is no copy to use.
    """
    return _Search(settings, source, None).run()


def glimpse(settings: Settings, source: Source) -> Champion | None:
    """What decides the name of the champion's run, without its network, which takes 13 CPU-seconds to load.

    Returns:
        A champion that can only be asked which model it is and how it finds motion; None where it takes more to know:
        there is none, MLflow has another one than the copy kept here, or does not answer.
    """
    try:
        kept = Keepsake(settings.paths.champion).read()
        asked = None if kept is None else within(source.answer_within, lambda: source.find(None))
        if kept is None or asked is None or not asked.is_same(kept.version):
            return None
        return Champion(Persistence(), _ref(kept), MotionSpec.model_validate(json.loads(kept.card)["motion"]))
    except (DamagedError, ServiceError, ValueError, LookupError):
        return None


class Asked:
    """A source that is asked once for the champion: who then loads it does not wait again for a server that is away.

    See :class:`Source`.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._asking = Lock()
        self._answers: list[Version | ServiceError | None] = []

    @property
    def uri(self) -> str:
        """See :class:`Source`."""
        return self._source.uri

    @property
    def answer_within(self) -> float | None:
        """See :class:`Source`."""
        return self._source.answer_within

    def find(self, number: str | None) -> Version | None:
        """See :class:`Source`."""
        if number is not None:
            return self._source.find(number)
        with self._asking:  # who gave up waiting has left a thread here, which still hears the answer
            if not self._answers:
                self._answers.append(self._hear())
            (answer,) = self._answers
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    def fetch(self, version: Version) -> Files:
        """See :class:`Source`."""
        return self._source.fetch(version)

    def _hear(self) -> Version | ServiceError | None:
        try:
            return within(self.answer_within, lambda: self._source.find(None))
        except ServiceError as error:
            return error


def version(settings: Settings, source: Source, number: str) -> Network:
    """Any version of the product's model, champion or not.

    Raises:
        ModelError: as :func:`champion`, or there is no such version.
        ServiceError: as :func:`champion`.
    """
    network = _Search(settings, source, number).run().network
    if network is None:
        what = f"{settings.product.name} version {number}"
        msg = f"a model is loaded from MLflow at {source.uri}, which has no {what} (any more): restore MLflow's files"
        raise ModelError(msg)
    return network


@dataclass(frozen=True, slots=True)
class _Search:
    """For a version by its number, or for the champion, which alone is kept."""

    settings: Settings
    source: Source
    number: str | None

    @property
    def keepsake(self) -> Keepsake:
        return Keepsake(self.settings.paths.champion)

    def run(self) -> Served:
        kept, damage = self._kept()
        try:
            found = within(self.source.answer_within, lambda: self._offered(kept))
            if found is None:
                return self._nothing()
            network = load(found, self.settings)
        except (DamagedError, ServiceError) as error:
            return self._stand_in(kept, damage, error)
        if found is kept:
            return Served(network, Origin.KEPT)
        return Served(network, Origin.MLFLOW, self._keep(found, damage))

    def _kept(self) -> tuple[Files | None, str]:
        """The copy, or what is wrong with it."""
        try:
            return self.keepsake.read(), ""
        except DamagedError as error:
            return None, str(error)

    def _offered(self, kept: Files | None) -> Files | None:
        """What MLflow has; the copy, without a download, where it is that."""
        asked = self.source.find(self.number)
        if asked is None:
            return None
        if kept is not None and asked.is_same(kept.version):
            return kept
        return self.source.fetch(asked).checked("in MLflow")

    def _nothing(self) -> Served:
        """MLflow's word that there is none: a champion that was taken back is not used in the next outage either."""
        if self.number is None:
            self.keepsake.retire()
        return Served(None, Origin.MLFLOW)

    def _keep(self, found: Files, damage: str) -> str:
        """Lays a champion aside; what is to be said of it."""
        if self.number is not None:
            return ""
        try:
            self.keepsake.keep(found)
        except OSError as error:
            return (
                f"a champion is kept for when MLflow is away, but the disk does not take it: {error}. Free some space"
            )
        return damage and f"{damage}. It has been put right from MLflow; look at the disk"

    def _stand_in(self, kept: Files | None, damage: str, error: CubecastError) -> Served:
        if kept is None or self.number not in {None, kept.version.number}:
            lack = damage or "No copy of a champion is kept here"
            raise type(error)(f"{_sentence(error)}. {lack}") from error
        since = "" if kept.kept is None else f" of {kept.kept:%Y-%m-%d %H:%M}Z"
        reason = f"{_sentence(error)}. Until then the copy{since} of {kept.version} stands in"
        return Served(load(kept, self.settings), Origin.KEPT, reason)


def load(files: Files, settings: Settings) -> Network:
    """A network from its files, without pickle.

    Raises:
        DamagedError: they cannot be read.
        ModelError: it does not fit the configuration.
    """
    from models.prediction import Card, Network  # Keras and TensorFlow, 13 CPU-seconds: only where there is a model

    what = str(files.version)
    with readable(what):
        card = Card.from_json(json.loads(files.card))
    check_fit(card, settings, what)
    with readable(what):
        return Network(_model(files.model), card, _ref(files))


def _ref(files: Files) -> ModelRef:
    digest = sha256("".join(files.hashes[name] for name in sorted(files.hashes)).encode())
    return ModelRef(files.version.name, files.version.number, "network", digest[:16])


def _model(content: bytes) -> Any:
    """A Keras model; it reads files alone, and safe mode runs no code that a file brings along."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        path.write_bytes(content)
        return keras.saving.load_model(path, safe_mode=True)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Faults of a model's files as a sentence; a broken archive can raise anything."""
    try:
        yield
    except Exception as error:
        msg = (
            f"a champion's files can be read, but those of {what} cannot: {_sentence(error)}. Restore "
            f"MLflow's files, let the alias {CHAMPION!r} point to another version, or remove the alias and train again"
        )
        raise DamagedError(msg) from error


def within(seconds: float | None, call: Callable[[], Answer]) -> Answer:
    """The answer of a call; who does not answer in time is left to itself, in a thread that holds up nobody.

    Args:
        seconds: how long; None: as long as it takes, in this thread.
        call: whatever it raises, this raises.

    Raises:
        ServiceError: it takes longer.
    """
    if seconds is None:
        return call()
    answers: Queue[tuple[Answer | None, Exception | None]] = Queue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
            answers.put((None, error))

    Thread(target=work, name="question", daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except Empty:
        msg = f"MLflow answers within {seconds:.0f} s, but has not. Look at the server, or mend tracking.uri"
        raise ServiceError(msg) from None
    if error is not None:
        raise error
    return cast("Answer", answer)


def _sentence(error: Exception) -> str:
    """The first line of our own errors; others name their kind."""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return text if isinstance(error, CubecastError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def public(reason: str, settings: Settings) -> str:
    """Without what a manifest tells nobody: users and passwords of addresses, and where the workspace lies."""
    bare = re.sub(r"//[^/@\s]+@", "//", reason)
    return bare.replace(str(settings.workspace), "WORKSPACE")

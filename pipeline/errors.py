"""The few errors that a user can act on. Each text says the rule, what was found and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CubecastError(Exception):
    """Something that the user can mend; shown without a traceback."""


class ConfigError(CubecastError):
    """The configuration breaks a rule."""


class SceneError(CubecastError):
    """One scene cannot enter the cube; ``reason`` is the code kept in the ledger.

    >>> str(SceneError("unreadable", "block 3 cannot be read"))
    'unreadable: block 3 cannot be read'
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class StoreError(CubecastError):
    """The cube cannot be created, opened or written."""


class NoCubeError(StoreError):
    """Nothing was ever ingested."""

    def __init__(self, location: object) -> None:
        super().__init__(f"a cube is made by ingest, but {location} holds none: run cubecast ingest first")


class NotEnoughFramesError(CubecastError):
    """Too few observed slots for what was asked."""


class LeakError(CubecastError):
    """Something that validation or test must meet is visible to an earlier part."""


class NoSkillError(CubecastError):
    """A model does not beat the baseline that it must beat."""


class ModelError(CubecastError):
    """No usable model: none registered, or one that does not fit the product."""


class BusyError(ModelError):
    """Another process trains for the product now; later it does not."""


class PublishError(CubecastError):
    """A forecast run fails a check and is not published."""


class WithdrawnError(PublishError):
    """A forecast run was published and then withdrawn."""


class ServiceError(CubecastError):
    """A server (Prefect, MLflow, dask) cannot be reached or started."""


class StoreAwayError(StoreError, ServiceError):
    """The cube's bucket does not answer; it may later."""


class Interrupted(CubecastError):  # noqa: N818 - nothing failed: the same command goes on from there
    """A training was stopped by a signal or its time limit, and can be resumed."""


@contextmanager
def room(folder: Path, rule: str) -> Iterator[None]:
    """A disk that does not take what is written, as a sentence.

    Args:
        folder: where it is written.
        rule: what has to be on the disk, and when.

    Raises:
        CubecastError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        msg = (
            f"{rule}, but {folder} cannot be written: {error.strerror or error}. Free some space or mend the rights; "
            "the same command then goes on"
        )
        raise CubecastError(msg) from error

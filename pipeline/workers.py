"""Where independent pieces of work run: threads of this process, or a dask scheduler given by its address."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import zarr

from pipeline.errors import ServiceError
from pipeline.store import Transaction

S = TypeVar("S")
T = TypeVar("T")
CONNECT_S = "30s"


def on_threads(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Results of independent calls, run by dask on threads, in order."""
    from dask.base import compute
    from dask.delayed import delayed

    tasks = [delayed(call, pure=False, traverse=False)() for call in calls]
    return list(compute(*tasks, scheduler="threads"))


def write_all(transaction: Transaction, calls: Sequence[Callable[[zarr.Group], T]], scheduler: str) -> list[T]:
    """Results of calls that write into an uncommitted cube, each into chunks of its own, in order.

    Args:
        transaction: the uncommitted work; the root group is handed to each call.
        calls: what is to be done; picklable where there is a scheduler.
        scheduler: address of a dask scheduler whose workers see the same files; empty: threads of this process.

    Raises:
        ServiceError: the scheduler does not answer.
    """
    if not scheduler:
        root = transaction.group
        return on_threads([_bound(call, root) for call in calls])
    with _client(scheduler) as client:
        return _spread(transaction, calls, client)


def each(call: Callable[[S], T], items: Sequence[S], scheduler: str) -> Iterator[T]:
    """Results of a call for each item, as they get done by a dask scheduler's workers; not more ahead than they need.

    Args:
        call: what is to be done; picklable.
        items: keys of the work.
        scheduler: its address.

    Raises:
        ServiceError: the scheduler does not answer.
    """
    with _client(scheduler) as client:
        from distributed import as_completed

        waiting = iter(items)
        ahead = 2 * max(1, sum(client.nthreads().values()))
        with client.as_current():
            done = as_completed([client.submit(call, item, pure=False) for item in islice(waiting, ahead)])
        for future in done:
            for item in islice(waiting, 1):
                done.add(client.submit(call, item, pure=False))
            yield future.result()


def _bound(call: Callable[[zarr.Group], T], root: zarr.Group) -> Callable[[], T]:
    return lambda: call(root)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        msg = f"services.dask is the address of a running dask scheduler, but {address} does not answer: {error}"
        raise ServiceError(msg) from None
    with client:
        yield client


def _spread(transaction: Transaction, calls: Sequence[Callable[[zarr.Group], T]], client: Any) -> list[T]:
    """Each worker writes into a fork of the session, and the forks are merged: no chunk passes through this process."""
    count = max(1, min(len(calls), sum(client.nthreads().values())))
    shares = [list(range(start, len(calls), count)) for start in range(count)]
    transaction.settle()
    futures = [
        client.submit(_share, transaction.fork(), [calls[index] for index in share], pure=False) for share in shares
    ]
    answers = client.gather(futures)
    transaction.merge([fork for fork, _ in answers])
    results = {
        index: result
        for share, (_, done) in zip(shares, answers, strict=True)
        for index, result in zip(share, done, strict=True)
    }
    return [results[index] for index in range(len(calls))]


def _share(fork: Any, calls: Sequence[Callable[[zarr.Group], T]]) -> tuple[Any, list[T]]:
    root = fork.group
    return fork, [call(root) for call in calls]

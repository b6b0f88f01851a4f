from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import SceneError, ServiceError
from pipeline.ingest import ingest
from pipeline.workers import on_threads


def test_results_come_in_the_order_of_the_calls() -> None:
    assert on_threads((lambda i=i: i * i) for i in range(50)) == [i * i for i in range(50)]


def test_a_fault_in_a_call_is_not_swallowed() -> None:
    def fail() -> None:
        raise SceneError("unreadable", "block 3")

    with pytest.raises(SceneError, match="block 3"):
        on_threads([fail])


def test_a_scheduler_that_does_not_answer_is_named(product: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.workers.CONNECT_S", 0.5)
    product.scene(0)
    services = product.settings.services.model_copy(update={"dask": "tcp://127.0.0.1:9"})
    with pytest.raises(ServiceError, match=r"services\.dask.*127\.0\.0\.1:9"):
        ingest(product.settings.model_copy(update={"services": services}))


@pytest.mark.slow
def test_a_cluster_of_two_processes_gives_the_same_bytes_as_threads(make_product: Callable[..., Any]) -> None:
    from distributed import LocalCluster

    here, there = (make_product(grid={"width": 300, "height": 280}) for _ in range(2))
    for slot in range(3):
        shutil.copy2(here.scene(slot), there.inbox)
    here.ingest()
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        services = there.settings.services.model_copy(update={"dask": cluster.scheduler_address})
        ingest(there.settings.model_copy(update={"services": services}))
    for slot in range(3):
        np.testing.assert_array_equal(there.stored(slot), here.stored(slot))
        np.testing.assert_array_equal(there.quality(slot), here.quality(slot))
    assert _chunks(there.store.location) == _chunks(here.store.location)


def _chunks(repository: Path) -> list[bytes]:
    """Every chunk, whatever its random name."""
    return sorted(path.read_bytes() for path in (repository / "chunks").iterdir())

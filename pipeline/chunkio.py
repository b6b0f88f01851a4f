"""How chunks travel between zarr and Icechunk: many at a time.

Measured on a 4096 x 4096 x 4 uint16 scene and on chips of 20 slots x 128 x 128: larger batches take 27 % of the CPU
time off a write and 20 % off a read, one request for all chunks of a batch takes off another third of a read. A chunk
that is asked for alone costs 0.35 to 0.6 CPU-ms whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import zarr
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.registry import register_pipeline

BATCH = 64  # chunks
THREADS = 2  # more only wait for each other


class TogetherPipeline(BatchedCodecPipeline):
    """Zarr's own codec pipeline, but it asks the store for all chunks of a batch at once."""

    async def read_batch(self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()) -> None:
        """Reads a batch of chunks into ``out``; see :class:`zarr.abc.codec.CodecPipeline`."""
        info = list(batch_info)
        store: Any = getattr(info[0][0], "store", None) if info else None
        if not _answers_together(store):
            await super().read_batch(info, out, drop_axes)
            return
        ranges = [(getter.path, (0, None)) for getter, *_ in info]
        answers = await store._store.get_partial_values(ranges)  # noqa: SLF001 - the public form fails on a missing chunk
        batch: list[Any] = [
            # None may mean that the chunk was never written, or that it cannot be read: asked for alone, it says which
            (getter if answer is None else _Held(answer), *rest)
            for answer, (getter, *rest) in zip(answers, info, strict=True)
        ]
        await super().read_batch(batch, out, drop_axes)


class _Held:
    """The bytes of one chunk, already here."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def get(self, prototype: Any) -> Any:
        """The chunk's bytes."""
        return prototype.buffer.from_bytes(self._answer)


def _answers_together(store: Any) -> bool:
    import icechunk

    return isinstance(store, icechunk.IcechunkStore)


def tune() -> None:
    """Makes zarr move chunks in batches, in this process."""
    register_pipeline(TogetherPipeline)
    path = f"{TogetherPipeline.__module__}.{TogetherPipeline.__qualname__}"
    zarr.config.set({"codec_pipeline.batch_size": BATCH, "codec_pipeline.path": path, "threading.max_workers": THREADS})

"""A door asked once: no failover, nothing read ahead, so that a test sees what the server said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from metalm.transports import connect
from metalm.transports.base import BatchStream, Transport
from metalm_proto.batch import Batch
from metalm_proto.errors import Unavailable
from metalm_proto.spec import BatchRequest, Spec

T = TypeVar("T")


class Door:
    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def batches(
        self,
        *,
        seed: int = 1,
        batch_size: int = 32,
        start: int = 0,
        count: int = 2**12,
        **spec: Any,
    ) -> BatchStream:
        return self.transport.batches(
            BatchRequest(
                spec=Spec(**spec),
                seed=seed,
                start=start,
                stop=start + count * batch_size,
                batch_size=batch_size,
            )
        )

    def sample(
        self, index: int = 0, *, seed: int = 1, provenance: bool = False, **spec: Any
    ) -> Batch:
        (batch,) = self.transport.batches(
            BatchRequest.single(spec=Spec(**spec), seed=seed, first=index, provenance=provenance)
        )
        return batch


@contextmanager
def opened(url: str, timeout_s: float = 30) -> Iterator[Door]:
    transport = connect(url, timeout_s=timeout_s)
    try:
        yield Door(transport)
    finally:
        transport.close()


def eventually(call: Callable[[], T], timeout_s: float = 20) -> T:
    """What the call gives once the server has room again."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)

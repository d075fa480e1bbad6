"""The batches of an admitted request on their way to whoever asked for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from metalm_proto import wire
from metalm_proto.batch import Batch
from metalm_service.handler import Admission, CallerGoneError

_log = logging.getLogger(__name__)


class Encoded:
    """The encoded batches of an admitted request; the next one is generated while one is sent."""

    def __init__(
        self,
        admission: Admission,
        encode: Callable[[Batch], Sequence[wire.Buffer]],
        executor: Executor,
    ) -> None:
        self.call = admission.call
        self._admission = admission
        self._batches = map(encode, admission.batches(lambda: not self._closed))
        self._executor = executor
        self._closed = False
        self._working = executor.submit(next, self._batches, ())

    async def following(self) -> Sequence[wire.Buffer]:
        """The next batch's buffers; none at the end, when the reservation is given back: the
        caller may ask again the moment that it has the last byte."""
        buffers = await asyncio.wrap_future(self._working)
        if buffers:
            self._working = self._executor.submit(next, self._batches, ())
        else:
            self._admission.close()
        return buffers

    def taken(self) -> None:
        """The transport has taken the batch that was given last."""
        self._admission.taken()

    def abandon(self) -> None:
        """Nobody wants what is being generated: `following` raises CallerGoneError soon."""
        self._closed = True

    def close(self) -> None:
        """Ends the work. The reservation is kept until the thread that fills its bytes is done."""
        self.abandon()
        self._working.add_done_callback(lambda _: self._admission.close())


class BatchResponse(StreamingResponse):
    """Sends a stream whose first batch is here, and closes it whatever happens."""

    def __init__(self, stream: Encoded, first: Sequence[wire.Buffer], **others: Any) -> None:
        self._stream = stream
        super().__init__(self._chunks(first), **others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except (asyncio.CancelledError, CallerGoneError):
            # The time to drain is over. The server closes the connection and says so in a line.
            _log.warning("a response was cut off in the middle: the service is ending")
        finally:
            self._stream.close()

    async def _chunks(self, buffers: Sequence[wire.Buffer]) -> AsyncIterator[wire.Buffer]:
        while buffers:
            with self._stream.call.sending(sum(map(len, buffers))):
                for buffer in buffers:
                    yield buffer
            self._stream.taken()
            buffers = await self._stream.following()


async def disconnected(request: Request) -> None:
    """Returns when the caller has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

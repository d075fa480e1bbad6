"""The batches of an admitted request on their way to whoever asked for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from metalm_proto import wire
from metalm_proto.errors import Draining
from metalm_service.handler import CallerGoneError
from metalm_service.http.ahead import Ahead, Piece
from metalm_service.http.formats import WRITE_BYTES

_log = logging.getLogger(__name__)


async def following(stream: Ahead) -> Piece | None:
    """The next piece. At the end None, and the reservation is given back: the caller may
    ask again the moment that it has the last byte."""
    await asyncio.wrap_future(stream.upcoming())
    piece = stream.following()
    if piece is None:
        stream.close()
    return piece


async def first(stream: Ahead, request: Request) -> Piece | None:
    """The first piece, which may take long, and whoever wants it may not wait so long.

    Raises CallerGoneError, Draining when the time to drain is over, and what generating it raised.
    """
    gone = asyncio.create_task(disconnected(request))
    gone.add_done_callback(lambda task: None if task.cancelled() else stream.abandon())
    try:
        return await following(stream)
    except (CallerGoneError, asyncio.CancelledError) as error:
        if gone.done():
            raise CallerGoneError from error
        # Another replica has time.
        raise Draining("the server is shutting down", 0.0) from error
    finally:
        gone.cancel()


class BatchResponse(StreamingResponse):
    """Sends a stream whose first piece is here, and closes it whatever happens."""

    def __init__(self, stream: Ahead, first: Piece | None, **others: Any) -> None:
        self._stream = stream
        self._pieces = self._chunks(first)
        super().__init__(self._pieces, **others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except (asyncio.CancelledError, CallerGoneError):
            # The time to drain is over. The server closes the connection and says so in a line.
            _log.warning("a response was cut off in the middle: the service is ending")
        finally:
            # Else it would keep the piece that it was about to send, and this object it.
            await self._pieces.aclose()
            self._stream.close()

    async def _chunks(self, piece: Piece | None) -> AsyncGenerator[wire.Buffer, None]:
        while piece is not None:
            with self._stream.call.sending(sum(map(len, piece.buffers)), piece.batches):
                for buffer in piece.buffers:
                    # What the connection cannot send it copies, and moves again and again.
                    view = memoryview(buffer)
                    for begin in range(0, len(view), WRITE_BYTES):
                        yield view[begin : begin + WRITE_BYTES]
            self._stream.taken()
            piece = await following(self._stream)


async def disconnected(request: Request) -> None:
    """Returns when the caller has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

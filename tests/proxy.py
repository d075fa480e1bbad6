"""A TCP proxy that does to connections what networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset."""


@dataclass
class Fault:
    """What happens to the connection that carries the answers' byte number `after` from now on.

    `kind`: "cut" (an end in the middle), "reset", "stall" (nothing passes any more, and nothing is
    closed) or "flip" (one bit of that byte).
    """

    kind: str
    after: int = 0


class Proxy:
    """Passes connections on to `target`, a URL; `url` is the same through the proxy.

    `hits` counts the faults that met an answer on its way, `hit_at` says when the last did. `delay_s` holds up each piece of an
    answer. While `refusing`, connections are reset as soon as they are made.
    """

    def __init__(self, target: str, port: int = 0) -> None:
        parts = urlsplit(target)
        self._target = parts.hostname, parts.port
        self.delay_s = 0.0
        self.refusing = False
        self.hits: Counter[str] = Counter()
        self.hit_at = float("-inf")
        self.connections = 0
        self._armed: deque[Fault] = deque()
        self._carried_at: dict[asyncio.StreamWriter, float] = {}
        self._connected: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"{parts.scheme}://127.0.0.1:{self._socket.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Self:
        self._stopped = asyncio.Event()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    def arm(self, kind: str, after: int = 0) -> None:
        """The next fault, behind those that wait already."""
        self._loop.call_soon_threadsafe(self._armed.append, Fault(kind, after))

    @property
    def armed(self) -> int:
        """Faults that have not happened yet."""
        return len(self._armed)

    def reset_all(self) -> None:
        """Resets the connections that there are."""

        def reset() -> None:
            for writer in self._carried_at:
                _reset(writer)

        self._loop.call_soon_threadsafe(reset)

    def in_use(self, within_s: float = 0.1) -> int:
        """Connections that carried a piece of an answer just now."""
        since = time.monotonic() - within_s
        return sum(carried_at > since for carried_at in list(self._carried_at.values()))

    async def _run(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._socket)
        await self._stopped.wait()
        server.close()
        left = dict(self._connected)
        for task, writer in left.items():
            task.cancel()
            # One that was accepted just now has a task that has not begun, and never will.
            _reset(writer)
        await asyncio.gather(*left, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._connect(reader, writer))
        self._connected[task] = writer
        task.add_done_callback(self._connected.pop)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._pass_on(reader, writer)
        except OSError:  # either side went away
            _reset(writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._carried_at.pop(writer, None)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            raise ConnectionRefusedError
        above_reader, above_writer = await asyncio.open_connection(*self._target)
        self._carried_at[writer] = 0.0
        asking = asyncio.ensure_future(_copy(reader, above_writer))
        answering = asyncio.ensure_future(self._answer(above_reader, writer))
        try:
            # Whichever side ends first ends both.
            done, _ = await asyncio.wait((asking, answering), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # At once: the end of the proxy may cancel the wait below.
            _reset(above_writer)
            for task in (asking, answering):
                task.cancel()
            try:
                await asyncio.gather(asking, answering, return_exceptions=True)
            finally:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            self._carried_at[writer] = time.monotonic()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            while self._armed:
                fault = self._armed[0]
                if len(data) <= fault.after:
                    fault.after -= len(data)
                    break
                self._armed.popleft()
                self.hits[fault.kind] += 1
                self.hit_at = time.monotonic()
                if fault.kind == "flip":
                    altered = bytearray(data)
                    altered[fault.after] ^= 1 << fault.after % 8
                    data = bytes(altered)
                    continue
                writer.write(data[: fault.after])
                await writer.drain()
                if fault.kind == "reset":
                    _reset(writer)
                elif fault.kind == "stall":
                    await asyncio.Event().wait()
                return
            writer.write(data)
            await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()

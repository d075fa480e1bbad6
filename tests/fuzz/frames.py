"""Hand-made HTTP/2 at the gRPC port: wrong frames, and too many right ones."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache

from metalm_proto.v1 import metalm_pb2 as pb
from tests.fuzz.h2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    call,
    frame,
    headers,
    literal,
    message,
    settings,
    string,
)
from tests.fuzz.target import Tally, Target

_PATIENCE_S = 1.0
"""For a server that has stopped to read, or has nothing to say: both are its right."""
_STREAM = pb.StreamBatchesRequest(
    spec=pb.Spec(sequence_length=4096), seed=1, samples=2**15, batch_size=32
).SerializeToString()
"""128 MiB and more, for those who do not read it."""


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """200 MiB of nothing in 200 KiB."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(bytes(2**20)) for _ in range(200)]
    return b"".join([*parts, packer.flush()])


def _rapid_reset(source: random.Random) -> Iterator[bytes]:
    for stream in range(1, 4001, 2):
        yield call(stream, _STREAM, "StreamBatches") + frame(
            RST_STREAM, 0, stream, struct.pack(">I", 8)
        )


def _rapid_reset_before_the_message(source: random.Random) -> Iterator[bytes]:
    for stream in range(1, 4001, 2):
        yield frame(HEADERS, END_HEADERS, stream, headers()) + frame(
            RST_STREAM, 0, stream, struct.pack(">I", 8)
        )


def _pings(source: random.Random) -> Iterator[bytes]:
    for _ in range(200):
        yield frame(PING, 0, 0, source.randbytes(8)) * 100


def _settings_flood(source: random.Random) -> Iterator[bytes]:
    for _ in range(200):
        yield settings((4, source.randrange(2**16))) * 100


def _continuations(source: random.Random) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, headers())
    for number in range(3000):
        yield frame(CONTINUATION, 0, 1, literal(b"x%d" % number, bytes(100)))


def _empty_continuations(source: random.Random) -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, headers())
    for _ in range(200):
        yield frame(CONTINUATION, 0, 1) * 100


def _giant_headers(source: random.Random) -> Iterator[bytes]:
    block = headers("Describe", *((b"x%d" % k, b"v" * 8000) for k in range(64)))
    pieces = [block[k : k + 16384] for k in range(0, len(block), 16384)]
    yield frame(HEADERS, 0, 1, pieces[0])
    for piece in pieces[1:-1]:
        yield frame(CONTINUATION, 0, 1, piece)
    yield frame(CONTINUATION, END_HEADERS, 1, pieces[-1])


def _table_bomb(source: random.Random) -> Iterator[bytes]:
    """One long field into the table, and then thousands of references of a byte each to it."""
    entry = b"\x40" + string(b"x") + string(b"v" * 3900)
    for stream in range(1, 40, 2):
        yield frame(HEADERS, END_HEADERS, stream, headers() + entry + b"\xbe" * 8000)


def _empty_data(source: random.Random) -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, headers("Sample"))
    for _ in range(200):
        yield frame(DATA, 0, 1) * 100


def _padding(source: random.Random) -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, headers("Sample"))
    yield frame(DATA, PADDED, 1, b"\xff" + bytes(255)) * 200
    yield frame(DATA, PADDED, 1, b"\xff" + bytes(3))


def _window_overflow(source: random.Random) -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, headers("Sample"))
    for stream in (0, 1):
        yield frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 2**31 - 1)) * 3
    yield frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0))


def _closed_window(source: random.Random) -> Iterator[bytes]:
    """Streams that may never be sent."""
    yield settings((4, 0))
    for stream in range(1, 60, 2):
        yield call(stream, _STREAM, "StreamBatches")


def _window_by_bytes(source: random.Random) -> Iterator[bytes]:
    """A window that grows by a byte at a time."""
    yield settings((4, 1)) + call(1, _STREAM, "StreamBatches")
    for _ in range(2000):
        yield frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1))


def _windows_up_and_down(source: random.Random) -> Iterator[bytes]:
    for stream in range(1, 20, 2):
        yield call(stream, _STREAM, "StreamBatches")
    for _ in range(300):
        yield settings((4, 0)) + settings((4, 2**31 - 1))


def _bad_settings(source: random.Random) -> Iterator[bytes]:
    pairs = ((1, 2**32 - 1), (2, 7), (3, 0), (4, 2**32 - 1), (5, 1), (5, 2**32 - 1), (99, 1))
    yield settings(source.choice(pairs))
    yield frame(SETTINGS, 0, 0, b"12345") + frame(SETTINGS, ACK, 0, bytes(6))


def _lying_lengths(source: random.Random) -> Iterator[bytes]:
    yield frame(
        HEADERS, END_HEADERS, 1, headers("Sample"), length=source.choice((2**24 - 1, 16385, 3))
    )
    yield call(3)


def _lying_messages(source: random.Random) -> Iterator[bytes]:
    for stream, length in enumerate((2**32 - 1, 2**31, 2**18 + 1, 1, 0)):
        yield frame(HEADERS, END_HEADERS, 2 * stream + 1, headers("Sample"))
        yield frame(DATA, END_STREAM, 2 * stream + 1, message(b"\x10\x01\x10\x02", length=length))


def _compressed_bomb(source: random.Random) -> Iterator[bytes]:
    encoding = source.choice(((b"grpc-encoding", b"gzip"), (b"grpc-encoding", b"deflate")))
    for stream in (1, 3, 5, 7):
        yield frame(HEADERS, END_HEADERS, stream, headers("Sample", encoding))
        data = message(_bomb(), compressed=1)
        for k in range(0, len(data), 16384):
            yield frame(DATA, END_STREAM * (k + 16384 >= len(data)), stream, data[k : k + 16384])


def _compressed_without_a_name(source: random.Random) -> Iterator[bytes]:
    yield frame(HEADERS, END_HEADERS, 1, headers("Sample"))
    yield frame(DATA, END_STREAM, 1, message(b"\x10\x01", compressed=source.choice((1, 2, 255))))


def _wrong_streams(source: random.Random) -> Iterator[bytes]:
    for stream in source.sample((0, 2, 2**31 - 1, 2**31 + 1, 5), 5):
        yield (
            call(stream) + frame(DATA, 0, stream + 2, bytes(9)) + frame(RST_STREAM, 0, 99, bytes(4))
        )
    yield call(1)


def _dependencies(source: random.Random) -> Iterator[bytes]:
    for stream in range(1, 2001, 2):
        yield frame(PRIORITY, 0, stream, struct.pack(">IB", source.choice((stream, 1, 0)), 9))


def _wrong_fields(source: random.Random) -> Iterator[bytes]:
    names = (
        b":path",
        b":status",
        b"",
        b"UPPER",
        b"a\r\nb",
        b"te",
        b"content-length",
        b"\xff\xfe",
        b":x",
    )
    values = (b"", b"/", b"\x00", b"a\r\nx: y", b"-1", b"9" * 400, b"\xff" * 30)
    for stream in range(1, 40, 2):
        field = (source.choice(names), source.choice(values))
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, headers("Describe", field))


def _long_values(source: random.Random) -> Iterator[bytes]:
    """The metadata that the service itself looks at."""
    for stream, value in enumerate((b"9" * 6000, b"\x01\x7f", b"-" * 300, b"1" * 40 + b"H")):
        for name in (
            b"grpc-timeout",
            b"x-request-id",
            b"authorization",
            b"grpc-encoding",
            b"traceparent",
        ):
            number = 2 * (8 * stream + len(name)) + 1
            yield frame(
                HEADERS, END_HEADERS | END_STREAM, number, headers("Describe", (name, value))
            )


def _random_block(source: random.Random) -> Iterator[bytes]:
    for stream in range(1, 20, 2):
        yield frame(HEADERS, END_HEADERS, stream, source.randbytes(source.randrange(300)))


def _random_frames(source: random.Random) -> Iterator[bytes]:
    for _ in range(50):
        kind = source.choice((*range(10), source.randrange(256)))
        payload = source.randbytes(source.choice((0, 1, 4, 5, 6, 8, source.randrange(600))))
        stream = source.choice((0, 1, 3, source.randrange(2**32)))
        yield frame(kind, source.randrange(256), stream, payload)
        yield call(source.randrange(1, 100, 2)) if source.random() < 0.3 else b""


def _altered_call(source: random.Random) -> Iterator[bytes]:
    data = bytearray(call(1) + call(3, _STREAM, "StreamBatches") + frame(PING, 0, 0, bytes(8)))
    for _ in range(source.randrange(1, 6)):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    yield bytes(data)


def _random_bytes(source: random.Random) -> Iterator[bytes]:
    yield source.randbytes(source.randrange(1, 3000))


def _goaways(source: random.Random) -> Iterator[bytes]:
    yield call(1, _STREAM, "StreamBatches")
    yield frame(GOAWAY, 0, 0, struct.pack(">II", source.randrange(2**31), 11) + b"calm") * 500


def _pushes(source: random.Random) -> Iterator[bytes]:
    yield frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + headers())


Attack = Callable[[random.Random], Iterator[bytes]]
FLOODS: tuple[Attack, ...] = (
    _rapid_reset, _rapid_reset_before_the_message, _pings, _settings_flood, _continuations,
    _empty_continuations, _giant_headers, _table_bomb, _empty_data, _padding, _window_overflow,
    _closed_window, _window_by_bytes, _windows_up_and_down, _compressed_bomb, _goaways,
)  # fmt: skip
"""Many frames that are right each by itself."""
WRONG: tuple[Attack, ...] = (
    _bad_settings, _lying_lengths, _lying_messages, _compressed_without_a_name, _wrong_streams,
    _dependencies, _wrong_fields, _long_values, _random_block, _random_frames, _altered_call,
    _random_bytes, _pushes,
)  # fmt: skip


def floods(target: Target, cases: int, source: random.Random) -> Tally:
    """Each flood in turn, and the server well behind each."""
    tally = Tally("HTTP/2 floods")
    for number in range(cases):
        _meet(target, FLOODS[number % len(FLOODS)], source, tally)
        target.be_well()
    return tally


def wrong(target: Target, cases: int, source: random.Random) -> Tally:
    """What no client sends."""
    tally = Tally("HTTP/2 frames")
    for number in range(cases):
        _meet(target, WRONG[number % len(WRONG)], source, tally)
    return tally


def _meet(target: Target, attack: Attack, source: random.Random, tally: Tally) -> None:
    name = attack.__name__.strip("_").replace("_", " ")
    with target.connected("grpc") as connection:
        peer = Peer(connection, _PATIENCE_S)
        try:
            if attack is not _random_bytes or source.random() < 0.5:
                peer.greet()
            for piece in attack(source):
                peer.send(piece)
            peer.ask()
            outcome = "went on"
        except TimeoutError:
            outcome = f"silent after {name}"
        except OSError:
            outcome = "ended"
    tally.count(outcome)

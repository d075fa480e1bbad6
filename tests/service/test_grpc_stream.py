"""The batches of a call over gRPC, several made in one turn: in order, and given back whenever."""

from __future__ import annotations

import pytest

from metalm_proto import wire
from metalm_proto.spec import BatchRequest, Spec
from metalm_service.calls import Calls
from metalm_service.config import ServerConfig
from metalm_service.core import engine
from metalm_service.grpc.stream import Stream
from metalm_service.handler import CallerGoneError, Handler
from metalm_service.limits import TOGETHER

REQUEST = BatchRequest(spec=Spec(V=300, L=64), seed=1, stop=21, batch_size=2)


@pytest.fixture
def handler() -> Handler:
    made = Handler(ServerConfig(threads=1))
    made.warm()
    return made


def stream(handler: Handler) -> Stream:
    call = Calls().begin("grpc", "StreamBatches", "somebody", {})
    return Stream(handler.admit(call, REQUEST, TOGETHER), lambda: True)


def test_all_batches_come_in_order(handler: Handler) -> None:
    messages = []
    reading = stream(handler)
    for message in reading:
        messages.append(message)
        reading.taken()
    expected = [
        wire.batch_response(wire.encode_batch(engine.make_batch(REQUEST, first, size)))
        for first, size in REQUEST.ranges()
    ]
    assert messages == expected
    reading.close()
    assert handler.requests == 0


@pytest.mark.parametrize("taken", [1, 2, 5, 11])
def test_who_leaves_in_the_middle_keeps_no_place_and_no_turn(handler: Handler, taken: int) -> None:
    """Of two turns there are: a third would not come."""
    for _ in range(4):
        reading = stream(handler)
        for _ in range(taken):
            next(reading)
            reading.taken()
        reading.close()
        assert handler.requests == 0
        with pytest.raises(CallerGoneError):
            next(reading)

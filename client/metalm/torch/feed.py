"""Batches on their way to a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any

import torch

from metalm.torch.dataset import Pair
from metalm_proto.batch import Batch


class DeviceFeed(Iterator[Pair]):
    """Batches on a device, as `dtype`: x and y, tensors [B, L].

    `source`: a DataLoader over a `BatchDataset`, a `BatchIterator`, or anything else that gives
    pairs of tensors or arrays. They travel as the small dtype that they have and are cast on the
    device.

    To a CUDA device they are copied from pinned memory, on a stream of their own, so that the next
    batch travels while the device computes. What is handed out belongs to the stream that is
    current then.

    One batch is read ahead of the one handed out, so `state_dict` here, not the source's, says
    where the consumer stands. An error of the source is raised behind the batches before it.
    """

    def __init__(
        self,
        source: Iterable[Batch] | Iterable[Pair],
        device: torch.device | str,
        *,
        dtype: torch.dtype = torch.int64,
    ) -> None:
        device = torch.device(device)
        self._state_of = getattr(source, "state_dict", None)
        self._source: Iterator[Batch | Pair] = iter(source)
        self._way = _CudaWay(device, dtype) if device.type == "cuda" else _PlainWay(device, dtype)
        self._ahead: tuple[_Copy, Any] | None = None
        self._error: Exception | None = None
        self._state = self._source_state()

    def __next__(self) -> Pair:
        if self._ahead is None and self._error is None:
            self._read_ahead()
        if self._ahead is None:
            error, self._error = self._error, None
            assert error is not None
            raise error
        (copy, state), self._ahead = self._ahead, None
        pair = self._way.finish(copy)
        self._read_ahead()
        self._state = state
        return pair

    def state_dict(self) -> dict[str, Any]:
        """The source's state as of the batch that was handed out last.

        It is the source that it is loaded into, before a feed is made of that. Raises TypeError
        where the source has no state.
        """
        if self._state is None:
            raise TypeError("the source of this feed has no state_dict")
        state: dict[str, Any] = self._state
        return state

    def _read_ahead(self) -> None:
        try:
            x, y = next(self._source)
        except Exception as error:
            self._error = error
            return
        pair = (torch.as_tensor(x), torch.as_tensor(y))
        self._ahead = (self._way.begin(pair), self._source_state())

    def _source_state(self) -> Any:
        return None if self._state_of is None else self._state_of()


class _Copy:
    """A batch on its way to the device; `arrived`: the event behind it, on a CUDA device."""

    def __init__(self, pair: Pair, arrived: torch.cuda.Event | None = None) -> None:
        self.pair = pair
        self.arrived = arrived


class _PlainWay:
    """A copy and a cast, over when they return."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype

    def begin(self, pair: Pair) -> _Copy:
        x, y = (part.to(self._device).to(self._dtype) for part in pair)
        return _Copy((x, y))

    def finish(self, copy: _Copy) -> Pair:
        return copy.pair


class _CudaWay:
    """Copies on a side stream, out of two sets of pinned buffers that take turns."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._stream = torch.cuda.Stream(device)
        self._stages = cycle((_Stage(), _Stage()))

    def begin(self, pair: Pair) -> _Copy:
        pinned = (stage := next(self._stages)).filled(pair)
        with torch.cuda.stream(self._stream):
            # The small tensors live and die on this stream, so that their memory is not taken
            # for anything else before they are cast.
            x, y = (part.to(self._device, non_blocking=True).to(self._dtype) for part in pinned)
            stage.copied = arrived = torch.cuda.Event()
            arrived.record(self._stream)
        return _Copy((x, y), arrived)

    def finish(self, copy: _Copy) -> Pair:
        consumer = torch.cuda.current_stream(self._device)
        assert copy.arrived is not None
        consumer.wait_event(copy.arrived)
        for part in copy.pair:
            # Allocated on the side stream: not to be used again there before the consumer is done.
            part.record_stream(consumer)
        return copy.pair


class _Stage:
    """Pinned memory for the batch that is being copied."""

    def __init__(self) -> None:
        self.copied: torch.cuda.Event | None = None
        self._buffers: list[torch.Tensor] = []
        self._pinned: list[torch.Tensor] = []

    def filled(self, pair: Pair) -> list[torch.Tensor]:
        """The pair in pinned memory, once the copy before it has left there."""
        if self.copied is not None:
            self.copied.synchronize()
        # Kept until the next time, as the copy reads them: they may be the caller's own.
        self._pinned = [
            part if part.is_pinned() else self._filled(number, part)
            for number, part in enumerate(pair)
        ]
        return self._pinned

    def _filled(self, number: int, part: torch.Tensor) -> torch.Tensor:
        while len(self._buffers) <= number:
            self._buffers.append(torch.empty(0))
        buffer = self._buffers[number]
        if buffer.dtype != part.dtype or buffer.numel() < part.numel():
            buffer = torch.empty(part.numel(), dtype=part.dtype, pin_memory=True)
            self._buffers[number] = buffer
        return buffer[: part.numel()].view(part.shape).copy_(part)

"""What honest clients ask for, and what is right to answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from metalm.transports import connect
from metalm_proto.batch import digest_of
from metalm_proto.spec import BatchRequest, Spec, Split

WEIGHTS = {"small": 60, "window": 30, "provenance": 5, "large": 5}
"""How often each kind is asked for, among 100 requests."""

_SMALL = Spec(V=64, n=8, l=8.0, L=256)
_WINDOW = Spec(V=64, n=10, l=64.0, L=4096)
_LARGE = Spec(V=300, n=10, l=64.0, L=2**16)
_WINDOWS = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the digests of its batches in order."""

    kind: str
    request: BatchRequest
    digests: tuple[int, ...]


class Requests:
    """Requests of mixed kinds, at random, with what the twin in this process generates for them.

    Small ones are new every time. Of the others there are a few that come again and again: their
    twins are generated once, so that checking costs a client no more than hashing.
    """

    def __init__(self, seed: int, kinds: list[str]) -> None:
        self._random = random.Random(seed)
        self._twin = connect("inprocess:", timeout_s=60)
        self._kinds = kinds
        self._known = {
            kind: [self._asked(kind) for _ in range(_WINDOWS if kind == "window" else 2)]
            for kind in kinds
            if kind != "small"
        }

    def draw(self) -> Asked:
        kind = self._random.choices(self._kinds, [WEIGHTS[kind] for kind in self._kinds])[0]
        return self._asked(kind) if kind == "small" else self._random.choice(self._known[kind])

    def _asked(self, kind: str) -> Asked:
        request = self._request(kind)
        digests = tuple(digest_of(batch.x, batch.y) for batch in self._twin.batches(request))
        return Asked(kind, request, digests)

    def _request(self, kind: str) -> BatchRequest:
        seed, first = self._random.getrandbits(64), self._random.getrandbits(40)
        if kind == "small":
            return BatchRequest.single(spec=_SMALL, seed=seed, first=first)
        if kind == "window":  # 8 batches of 256 KiB
            return BatchRequest(
                spec=_WINDOW, seed=seed, start=first, stop=first + 256, split=Split.VALIDATION
            )
        if kind == "provenance":
            return BatchRequest.single(spec=_SMALL, seed=seed, first=first, size=4, provenance=True)
        # 2 batches of 8 MiB
        return BatchRequest(spec=_LARGE, seed=seed, start=first, stop=first + 64, batch_size=32)

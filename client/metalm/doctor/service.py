"""The service behind a connection: who it is, what it takes, and whether its bytes are right."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import version

from metalm.client import MetaLMClient
from metalm.credentials import Credentials
from metalm.doctor.asking import BRIEFLY_S, asked
from metalm.doctor.findings import Finding, Stop
from metalm.doctor.network import Target
from metalm.transports import connect
from metalm.transports.base import Transport, check_batch
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.errors import (
    CorruptBatch,
    MetaLMError,
    Unauthenticated,
    Unavailable,
    one_line,
)
from metalm_proto.spec import GENERATOR, BatchRequest, Profile, Spec, Split

_LATENCIES = 20
_MOST_TOKENS = 2**18
"""Of what is generated here for comparison: numpy, where there is no kernel, takes a second."""
_KNOWN = (
    (Spec(L=512), Split.TRAIN),
    (Spec(V=300, n=5, l=12, e=0.3, L=300, mask_ratio=0.5), Split.VALIDATION),
    (Spec(V=70_000, n=3, l=4, L=200, profile=Profile.METAGYM, language=9), Split.TEST),
)
"""One of each size of token, so that every way to write a batch is looked at."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the trainer will ask for: batches of `size` samples of `spec`, and, if it is known,
    `tokens_s` tokens a second."""

    spec: Spec
    size: int
    tokens_s: float | None

    def request(self, size: int) -> BatchRequest:
        return BatchRequest.single(spec=self.spec, seed=0, first=0, size=size)


def service(
    target: Target, credentials: Credentials, wanted: Wanted, timeout_s: float
) -> Iterator[Finding]:
    """All that can be asked through one door at one address. Raises Stop."""
    with closing(
        connect(target.url, timeout_s=timeout_s, address=target.address, credentials=credentials)
    ) as door:
        description = asked("service", target, credentials, lambda: door.describe(None))
        yield from _who(target, description)
        yield from _token(target, credentials, timeout_s)
        yield _limits(target, credentials, door, description, wanted)
        yield _bytes(target, credentials, door, wanted)
        yield _latency(target, credentials, door)


def _who(target: Target, description: Description) -> Iterator[Finding]:
    if GENERATOR not in description.generators:
        offered = one_line(", ".join(map(str, description.generators)))
        raise Stop(
            "service",
            target.name,
            f"it generates {offered}, and this client wants {GENERATOR}",
            "install a client and a service of the same release",
        )
    ours = version("metalm")
    said = one_line(f"metalm {description.version}, {GENERATOR}, {description.engine} engine")
    if description.engine == "numpy":
        mend = "install numba beside the service: it is some hundred times faster"
        yield Finding("service", target.name, "note", said, mend)
    elif description.version != ours:
        mend = f"this client is metalm {ours}: the bytes are the same, what is new may be missing"
        yield Finding("service", target.name, "note", said, mend)
    else:
        yield Finding("service", target.name, "ok", said)


def _token(target: Target, credentials: Credentials, timeout_s: float) -> Iterator[Finding]:
    if credentials.token is None:
        return
    without = replace(credentials, token=None)
    with closing(
        connect(target.url, timeout_s=timeout_s, address=target.address, credentials=without)
    ) as door:
        try:
            door.describe(None)
        except Unauthenticated:
            yield Finding("token", target.name, "ok", "accepted")
        except MetaLMError as error:
            said = f"whether it refuses who has none is not known: {error}"
            yield Finding("token", target.name, "note", said, "ask again")
        else:
            said = "the service asks nobody for a token, and anybody may use it"
            mend = "give it tokens if that is not meant: METALM_TOKEN_FILE"
            yield Finding("token", target.name, "note", said, mend)


def _limits(
    target: Target,
    credentials: Credentials,
    door: Transport,
    description: Description,
    wanted: Wanted,
) -> Finding:
    """Asks for the very batch that the trainer will ask for: what is refused depends on more than
    its size."""
    batch = asked("limits", target, credentials, lambda: _batch(door, wanted.request(wanted.size)))
    said = f"a batch of {batch.size} samples has {batch.x.nbytes + batch.y.nbytes} bytes"
    if description.limits is not None:
        said += f", of {description.limits.max_message_bytes} that are allowed"
    return Finding("limits", target.name, "ok", said)


def _bytes(target: Target, credentials: Credentials, door: Transport, wanted: Wanted) -> Finding:
    requests = [
        BatchRequest.single(spec=spec, seed=2**63 + 5, split=split, first=2**40, size=2)
        for spec, split in _KNOWN
    ]
    if wanted.spec.L <= _MOST_TOKENS:
        requests.append(wanted.request(1))
    batches = [
        asked("bytes", target, credentials, partial(_batch, door, request)) for request in requests
    ]
    try:
        here = connect("inprocess:", timeout_s=BRIEFLY_S)
    except ModuleNotFoundError:
        mend = "install metalm as a whole to compare them with what this process generates"
        said = "their digests are right, and nothing else was compared"
        return Finding("bytes", target.name, "note", said, mend)
    for request, batch in zip(requests, batches, strict=True):
        mine = _batch(here, request)
        if (mine.digest, mine.x.tobytes()) != (batch.digest, batch.x.tobytes()):
            raise Stop(
                "bytes",
                target.name,
                f"it generates other tokens than this process for {request.spec}",
                "report it: with the same generator this must never be; do not train with both",
            )
    said = f"{len(batches)} batches are byte for byte what this process generates"
    return Finding("bytes", target.name, "ok", said)


def _latency(target: Target, credentials: Credentials, door: Transport) -> Finding:
    request = BatchRequest.single(spec=Spec(L=1), seed=0, first=0, size=1)
    times_ms = []
    for _ in range(_LATENCIES):
        began = time.monotonic()
        asked("latency", target, credentials, lambda: _batch(door, request))
        times_ms.append((time.monotonic() - began) * 1e3)
    middle, most = statistics.median(times_ms), max(times_ms)
    said = f"{middle:.1f} ms for the smallest request, {most:.1f} at most"
    return Finding("latency", target.name, "ok", said)


def speed(
    urls: list[str], credentials: Credentials, wanted: Wanted, *, seconds: float, timeout_s: float
) -> Finding:
    """What this process takes from all of them together, the way a trainer does."""
    place = "all together"
    arguments = {field.name: getattr(credentials, field.name) for field in fields(credentials)}
    tokens = nbytes = 0
    with MetaLMClient(urls, timeout_s=timeout_s, **arguments) as client:
        run = client.batches(spec=wanted.spec, seed=0, batch_size=wanted.size)
        try:
            next(run)  # connections and the first look at a spec are not what lasts
            began = time.monotonic()
            while (elapsed_s := time.monotonic() - began) < seconds:
                batch = next(run)
                tokens += batch.x.size
                nbytes += batch.x.nbytes + batch.y.nbytes
        except MetaLMError as error:
            return Finding("speed", place, "wrong", str(error), "see what is said of each above")
        finally:
            run.close()
    elapsed_s = time.monotonic() - began
    tokens_s = tokens / elapsed_s
    said = f"{tokens_s / 1e6:.3g} Mtok/s, {nbytes / elapsed_s / 1e6:.3g} MB/s into this process"
    if wanted.tokens_s is None:
        return Finding("speed", place, "ok", said)
    said += f"; {wanted.tokens_s / 1e6:.3g} Mtok/s are needed"
    if tokens_s >= wanted.tokens_s:
        return Finding("speed", place, "ok", said)
    mend = (
        "more replicas, or more of their cores; a faster network; or several processes that read, "
        "as in a DataLoader with workers"
    )
    return Finding("speed", place, "wrong", said, mend)


def _batch(door: Transport, request: BatchRequest) -> Batch:
    """Raises any MetaLMError."""
    with closing(door.batches(request)) as stream:
        batch = next(stream, None)
        if batch is None:
            raise Unavailable(f"the stream ended before sample {request.start}")
        check_batch(batch, request, request.start, request.samples)
        if next(stream, None) is not None:
            raise CorruptBatch("the answer goes on after the last batch")
    return batch

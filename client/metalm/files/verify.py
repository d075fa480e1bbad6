"""Whether files hold the samples that they are said to hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from metalm.client import MetaLMClient
from metalm.files.base import Codec, Content, Difference, Rows
from metalm.files.formats import SUFFIXES, codec_named, format_of
from metalm.files.manifest import MANIFEST, Shard, read_manifest
from metalm.files.progress import progress
from metalm_proto.batch import Batch
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import BatchRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What files are said to hold.

    `files`: each with its samples, and its entry in the manifest if there is one. `others`: names
    of what else lies in the directory of a manifest.
    """

    format: str
    request: BatchRequest
    files: tuple[tuple[Path, BatchRequest, Shard | None], ...]
    others: tuple[str, ...] = ()


def claim_of(path: Path) -> Claim:
    """What a manifest says, or the directory's that holds one, or a file about itself.

    Raises InvalidArgument for what is neither; Difference for a file that is damaged;
    ModuleNotFoundError for what its format needs.
    """
    if path.is_dir():
        path /= MANIFEST
    form = format_of(path.name)
    if form is not None:
        request = _request_in(path, codec_named(form))
        return Claim(format=form, request=request, files=((path, request, None),))
    run, shards = read_manifest(path)
    files = tuple(
        (path.parent / shard.file, part, shard)
        for shard, (_, part) in zip(shards, run.parts(), strict=True)
    )
    others = set(os.listdir(path.parent)) - {shard.file for shard in shards} - {path.name}
    return Claim(format=run.format, request=run.request, files=files, others=tuple(sorted(others)))


def differences(client: MetaLMClient, claim: Claim) -> Iterator[str]:
    """The first difference of each file from what it should hold, as a line.

    The samples are generated anew by the client and compared, then the bytes are. A file that is
    not in the manifest but would be taken for a shard is a difference too. Raises any MetaLMError
    that the client raises, and ModuleNotFoundError for what the format needs.
    """
    codec = codec_named(claim.format)
    with progress(claim.request.samples, claim.request.spec.L, "verify") as advance:
        for path, part, shard in claim.files:
            seen = 0
            try:
                for size in _checked(client, codec, path, part, shard):
                    seen += size
                    advance(size)
            except Difference as error:
                yield f"{path.name}: {error}"
                advance(part.samples - seen)
    for name in claim.others:
        if name.endswith(SUFFIXES[claim.format]):
            yield f"{name}: is not in the manifest"


def _request_in(path: Path, codec: Codec) -> BatchRequest:
    try:
        with open(path, "rb") as stream:
            return codec.request(stream)
    except InvalidArgument as error:
        raise InvalidArgument("manifest", str(path), f"a manifest or a file: {error}") from error
    except OSError as error:
        bound = f"a file that can be read: {error.strerror or error}"
        raise InvalidArgument("manifest", str(path), bound) from error
    except Exception as error:
        raise _damage(error) from error


def _checked(
    client: MetaLMClient, codec: Codec, path: Path, part: BatchRequest, shard: Shard | None
) -> Iterator[int]:
    """The numbers of samples that were found right, piece by piece. Raises Difference."""
    try:
        stream = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise Difference("is missing") from None
    except OSError as error:
        raise Difference(f"cannot be read: {error.strerror}") from error
    with stream, Content() as content:
        if shard is not None:
            _same("bytes", os.fstat(stream.fileno()).st_size, shard.bytes)
        first = part.start
        for rows in _read(codec, stream, part):
            batch = client.batch(
                first,
                batch_size=len(rows.x),
                seed=part.seed,
                split=part.split,
                spec=part.spec,
            )
            _compare(rows, batch)
            if shard is not None:
                content.add(batch.x, batch.y)
            first += batch.size
            yield batch.size
        if shard is not None:
            stream.seek(0)
            _same("sha256", hashlib.file_digest(stream, "sha256").hexdigest(), shard.sha256)
            _same("digest", content.hexdigest(), shard.digest)


def _read(codec: Codec, stream: BinaryIO, part: BatchRequest) -> Iterator[Rows]:
    try:
        yield from codec.rows(stream, part)
    except Difference:
        raise
    except Exception as error:
        raise _damage(error) from error


def _damage(error: Exception) -> Difference:
    """What damage makes of a file is for its format's library to say, in any exception it has."""
    return Difference(f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}")


def _same(name: str, found: object, right: object) -> None:
    if found != right:
        raise Difference(f"{name} is {found}; the manifest says {right}")


def _compare(rows: Rows, batch: Batch) -> None:
    x_wrong, y_wrong = rows.x != batch.x, rows.y != batch.y
    wrong = x_wrong | y_wrong
    if not wrong.any():
        return
    row, position = np.unravel_index(wrong.argmax(), wrong.shape)
    name = "x" if x_wrong[row, position] else "y"
    found, right = getattr(rows, name)[row, position], getattr(batch, name)[row, position]
    raise Difference(
        f"sample {batch.first + int(row)}, position {position}: "
        f"{name} is {found}; it should be {right}"
    )

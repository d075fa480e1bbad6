"""Shards and the manifest that lists them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metalm.files.base import SAMPLES, flat, request_of, stream_of
from metalm.files.formats import SUFFIXES, codec_named
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import FIRST, START, STOP, BatchRequest

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
SHARD_SAMPLES = Field(
    name="shard_samples",
    lower=1,
    upper=U64,
    doc="samples a shard: writes a directory of shards and a manifest",
)
_FORMAT = Field(name="format", kind=str, doc="")
_VERSION = Field(name="version", kind=str, doc="")
_LIBRARY = Field(name="library", kind=str, doc="")
_SHARD_FIELDS = (
    Field(name="file", kind=str, doc=""),
    FIRST,
    SAMPLES,
    Field(name="bytes", lower=0, upper=U64, doc=""),
    Field(name="sha256", kind=str, doc=""),
    Field(name="digest", kind=str, doc=""),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A finished file of a run.

    `file`: its name. `first`, `samples`: which samples it holds. `bytes`, `sha256`: of the file.
    `digest`: of the samples, whatever the format: that of a batch that has them all, XXH3-64 of
    the bytes of x followed by those of y.
    """

    file: str
    first: int
    samples: int
    bytes: int
    sha256: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Samples that are written in shards of `shard_samples`, the last may be smaller.

    `version`: of this package. `library`: name and version of what else makes the bytes, if any.
    """

    request: BatchRequest
    format: str
    shard_samples: int
    version: str
    library: str | None

    @classmethod
    def now(cls, request: BatchRequest, form: str, shard_samples: int) -> Run:
        """A run with what is installed. Raises ModuleNotFoundError for what a format needs, and
        InvalidArgument for samples that it cannot hold."""
        codec = codec_named(form)
        codec.check(request.spec)
        return cls(
            request=request,
            format=form,
            shard_samples=SHARD_SAMPLES.check(shard_samples),
            version=version("metalm"),
            library=codec.LIBRARY,
        )

    @property
    def count(self) -> int:
        """Shards in all."""
        return -(-self.request.samples // self.shard_samples)

    def parts(self) -> Iterator[tuple[str, BatchRequest]]:
        """The name and the samples of each shard, in order."""
        request = self.request
        for number, first in enumerate(range(request.start, request.stop, self.shard_samples)):
            name = f"{request.split}-{number:05}-of-{self.count:05}{SUFFIXES[self.format]}"
            stop = min(request.stop, first + self.shard_samples)
            yield name, replace(request, start=first, stop=stop)

    def head(self) -> dict[str, Any]:
        """All of a manifest but the shards, as plain JSON types."""
        return {
            "format_version": FORMAT_VERSION,
            **stream_of(self.request),
            "start": self.request.start,
            "stop": self.request.stop,
            "format": self.format,
            "shard_samples": self.shard_samples,
            "version": self.version,
            "library": self.library,
        }

    def check_same(self, other: Run, where: str) -> None:
        """Raises InvalidArgument, which names the difference, if `other`, found there, is another
        run."""
        for name, mine in flat(self.head()).items():
            if (theirs := flat(other.head())[name]) != mine:
                raise InvalidArgument(name, mine, f"{theirs}, as of the run that {where} holds")


def manifest_text(run: Run, shards: Iterable[Shard]) -> str:
    """A manifest, with a line for each shard."""
    head = json.dumps(run.head(), indent=2).removesuffix("\n}")
    lines = ",\n".join(f"    {json.dumps(asdict(shard))}" for shard in shards)
    return f'{head},\n  "shards": [\n{lines}\n  ]\n}}\n'


def read_manifest(path: Path) -> tuple[Run, tuple[Shard, ...]]:
    """The run and its shards, which are as many and have the names and the samples that the run
    gives them.

    Raises InvalidArgument for a file that cannot be read, and for one that is no such manifest.
    """
    try:
        return _parsed(path.read_bytes())
    except InvalidArgument as error:
        raise InvalidArgument("manifest", str(path), f"one that metalm wrote: {error}") from error
    except OSError as error:
        bound = f"a file that can be read: {error.strerror}"
        raise InvalidArgument("manifest", str(path), bound) from error


def _parsed(text: bytes) -> tuple[Run, tuple[Shard, ...]]:
    fields = parse_object(text)
    run = run_of(fields)
    listed = fields.get("shards")
    if not isinstance(listed, list):
        raise InvalidArgument("shards", listed, "a list")
    shards = tuple(shard_of(shard) for shard in listed)
    if len(shards) != run.count:
        raise InvalidArgument("shards", len(shards), f"{run.count} in number")
    for number, ((name, part), shard) in enumerate(zip(run.parts(), shards, strict=True)):
        right = {"file": name, "first": part.start, "samples": part.samples}
        for field, value in right.items():
            if (found := getattr(shard, field)) != value:
                raise InvalidArgument(f"shards[{number}].{field}", found, str(value))
    return run, shards


def parse_object(text: bytes) -> dict[str, Any]:
    """Raises InvalidArgument for what is no JSON object."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("manifest", str(error), "JSON") from error
    if not isinstance(fields, dict):
        raise InvalidArgument("manifest", fields, "an object")
    return fields


def run_of(fields: dict[str, Any]) -> Run:
    """The run that a head names. Raises InvalidArgument or UnknownGenerator."""
    if fields.get("format_version") != FORMAT_VERSION:
        raise InvalidArgument("format_version", fields.get("format_version"), str(FORMAT_VERSION))
    start, stop = START.check(fields.get("start")), STOP.check(fields.get("stop"))
    form = _FORMAT.check(fields.get("format"))
    if form not in SUFFIXES:
        raise InvalidArgument("format", form, f"one of {', '.join(SUFFIXES)}")
    library = fields.get("library")
    return Run(
        request=request_of({**fields, "first": start, "samples": stop - start}),
        format=form,
        shard_samples=SHARD_SAMPLES.check(fields.get("shard_samples")),
        version=_VERSION.check(fields.get("version")),
        library=None if library is None else _LIBRARY.check(library),
    )


def shard_of(fields: object) -> Shard:
    """Raises InvalidArgument."""
    if not isinstance(fields, dict):
        raise InvalidArgument("shards", fields, "a list of objects")
    return Shard(**{field.name: field.check(fields.get(field.name)) for field in _SHARD_FIELDS})

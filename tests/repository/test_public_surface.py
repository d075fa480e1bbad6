"""What `from metalm import …` promises."""

from __future__ import annotations

import inspect

import metalm
from metalm import MetaLMError

SURFACE = [
    "Batch",
    "BatchIterator",
    "CorruptBatch",
    "DeadlineExceeded",
    "InternalError",
    "InvalidArgument",
    "Language",
    "LimitExceeded",
    "MetaLMClient",
    "MetaLMError",
    "Overloaded",
    "Profile",
    "Provenance",
    "Spec",
    "Split",
    "Unauthenticated",
    "Unavailable",
    "UnknownGenerator",
]


def test_the_surface_is_this_and_no_more() -> None:
    assert metalm.__all__ == SURFACE
    assert sorted(SURFACE) == SURFACE
    public = {name for name, value in vars(metalm).items() if not name.startswith("_")}
    assert {name for name in public if not inspect.ismodule(getattr(metalm, name))} == set(SURFACE)


def test_every_public_thing_is_documented() -> None:
    for name in SURFACE:
        thing = getattr(metalm, name)
        assert inspect.getdoc(thing), name
        for member, value in vars(thing).items():
            if callable(value) and not member.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_every_error_is_one_that_callers_can_catch() -> None:
    errors = [getattr(metalm, name) for name in SURFACE]
    for error in errors:
        if inspect.isclass(error) and issubclass(error, Exception):
            assert issubclass(error, MetaLMError)

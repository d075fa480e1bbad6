"""The formats by name."""

from __future__ import annotations

from pathlib import Path

from metalm.files.base import Codec

SUFFIXES = {
    "text": ".txt",
    "npz": ".npz",
    "parquet": ".parquet",
    "arrow": ".arrow",
    "jsonl": ".jsonl",
}


def format_of(path: str | None) -> str | None:
    """The format that the name of a file ends in; None for any other name."""
    suffix = Path(path or "").suffix
    return next((name for name, known in SUFFIXES.items() if known == suffix), None)


def codec_named(name: str) -> Codec:
    """Raises ModuleNotFoundError where a format needs what is not installed."""
    if name == "text":
        from metalm.files import text

        return text
    if name == "jsonl":
        from metalm.files import json_lines

        return json_lines
    if name == "npz":
        from metalm.files import npz

        return npz
    if name == "arrow":
        from metalm.files import arrow

        return arrow
    from metalm.files import parquet

    return parquet

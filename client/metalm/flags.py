"""Flags of the command line from the fields that they name."""

from __future__ import annotations

import argparse
from typing import Any

from metalm.client import TIMEOUT, MetaLMClient
from metalm_proto.fields import Field
from metalm_proto.spec import SEED, SPEC_FIELDS, SPLIT, Spec


def add_stream(parser: argparse.ArgumentParser) -> None:
    """What says which stream, and who generates it."""
    for field in (*SPEC_FIELDS, SEED, SPLIT):
        add(parser, field)
    add_url(parser)


def add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        action="append",
        help="service to ask, http(s):// or grpc(s)://, several times for several; by default this "
        "process generates",
    )
    add(parser, TIMEOUT)


def add(parser: argparse.ArgumentParser, field: Field) -> None:
    """`-V` for names of one letter; `--vocab_size`, as MetaGym spells it, and `--vocab-size`."""
    short = [f"-{field.name}"] if len(field.name) == 1 else []
    long = dict.fromkeys((f"--{field.long_name}", f"--{field.long_name.replace('_', '-')}"))
    default = "" if field.default is None else f" [{field.default}]"
    parser.add_argument(
        *short,
        *long,
        dest=field.name,
        metavar="X" if field.kind is float else "N" if field.kind is int else "NAME",
        help=field.doc + default,
    )


def parsed(field: Field, options: argparse.Namespace) -> Any:
    """The value of a flag, or the field's default. Raises InvalidArgument."""
    text = getattr(options, field.name)
    return field.default if text is None else field.parse(text)


def client(options: argparse.Namespace) -> MetaLMClient:
    """Raises InvalidArgument."""
    return MetaLMClient(options.url or "inprocess:", timeout_s=parsed(TIMEOUT, options))


def spec(options: argparse.Namespace) -> Spec:
    """Raises InvalidArgument."""
    return Spec(**{field.name: parsed(field, options) for field in SPEC_FIELDS})

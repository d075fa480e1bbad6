"""Flags of the command line from the fields that they name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from metalm.client import TIMEOUT, MetaLMClient
from metalm.credentials import CredentialArguments
from metalm_proto.errors import InvalidArgument
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
    add_credentials(parser)


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """What a service may want to be shown."""
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the token that the service wants [the variable METALM_TOKEN, if it is set]",
    )
    parser.add_argument("--ca", metavar="FILE", help="PEM file of the authorities to trust")
    parser.add_argument("--cert", metavar="FILE", help="PEM file of this client's certificate")
    parser.add_argument("--key", metavar="FILE", help="PEM file of its key [in the one of --cert]")
    parser.add_argument(
        "--allow-plaintext-token",
        action="store_true",
        help="send the token over http:// and grpc:// to other machines, where others can read it",
    )


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


_CHOSEN = ("start", "first", "samples")
"""Which samples; the first of them is called start where they come as a stream."""


def add_preset(parser: argparse.ArgumentParser) -> None:
    """`--preset`, which stands for the spec, seed and split, and for which samples."""
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="an evaluation set of `metalm presets`, instead of its spec",
    )


def parsed(field: Field, options: argparse.Namespace) -> Any:
    """The value of a flag, or that of the preset, or the field's default. Raises InvalidArgument,
    also for what a preset has fixed: of it only the samples to take may be told otherwise."""
    text = getattr(options, field.name)
    preset = getattr(options, "preset", None)
    if preset is not None and field.name in (fixed := _fixed(preset)):
        if text is None:
            return fixed[field.name]
        if field.name not in _CHOSEN:
            raise InvalidArgument(field.label, text, f"absent with --preset {preset}")
    return field.default if text is None else field.parse(text)


def _fixed(name: str) -> dict[str, Any]:
    """What a preset fixes. Raises InvalidArgument for a name that there is not."""
    from metalm.eval.presets import preset

    chosen = preset(name).evaluation_set
    spec = {field.name: getattr(chosen.spec, field.name) for field in SPEC_FIELDS}
    stream = {"seed": chosen.seed, "split": chosen.split}
    place = dict.fromkeys(("start", "first"), chosen.ranges[0][0])
    return {**spec, **stream, **place, "samples": chosen.samples}


def client(options: argparse.Namespace) -> MetaLMClient:
    """Raises InvalidArgument."""
    return MetaLMClient(
        options.url or "inprocess:", timeout_s=parsed(TIMEOUT, options), **credentials(options)
    )


def credentials(options: argparse.Namespace) -> CredentialArguments:
    """What stands in the flags of `add_credentials`, and in the environment."""
    given = options.token_file
    return {
        "token": os.environ.get("METALM_TOKEN") if given is None else Path(given),
        "ca": options.ca,
        "cert": options.cert,
        "key": options.key,
        "allow_plaintext_token": options.allow_plaintext_token,
    }


def spec(options: argparse.Namespace) -> Spec:
    """Raises InvalidArgument."""
    return Spec(**{field.name: parsed(field, options) for field in SPEC_FIELDS})

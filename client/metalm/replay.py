"""The command `metalm replay`: what a run saw at a step."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from metalm import flags
from metalm.iterator import STEP
from metalm.schedule import RANK, WORLD_SIZE
from metalm_proto import formats
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import BATCH_SIZE, GENERATOR, SEED, SPEC_FIELDS, SPLIT, START, Spec

_RUN = (*SPEC_FIELDS, SEED, SPLIT, START)


def add_replay_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_stream(parser)
    for field in (START, STEP, BATCH_SIZE, RANK, WORLD_SIZE):
        flags.add(parser, field)
    parser.add_argument(
        "--state", metavar="FILE", help="JSON of a state_dict: its run, steps from its position on"
    )
    parser.add_argument(
        "--skip", metavar="START:STOP", action="append", default=[], help="samples stepped over"
    )
    parser.add_argument("--provenance", action="store_true", help="add where tokens come from")


def replay(options: argparse.Namespace) -> None:
    """Prints the batch as JSON. The run is that of the flags, or that of --state."""
    if options.state is None:
        spec, split = flags.spec(options), flags.parsed(SPLIT, options)
        seed, start = flags.parsed(SEED, options), flags.parsed(START, options)
        if seed is None:
            raise InvalidArgument("seed", None, "given, or a --state that has it: whose run is it?")
    else:
        given = [field.name for field in _RUN if getattr(options, field.name) is not None]
        if given:
            raise InvalidArgument(given[0], getattr(options, given[0]), "absent with --state")
        spec, seed, split, start = _state(options.state)
    with flags.client(options) as client:
        run = client.batches(
            spec=spec,
            seed=seed,
            split=split,
            start=start,
            batch_size=flags.parsed(BATCH_SIZE, options),
            rank=flags.parsed(RANK, options),
            world_size=flags.parsed(WORLD_SIZE, options),
            skip=[_range(text) for text in options.skip],
            provenance=options.provenance,
        )
        print(formats.to_json(run.at(flags.parsed(STEP, options))))


def _state(path: str) -> tuple[Spec, int, str, int]:
    """The spec, seed, split and position in a file with the JSON of a state_dict."""
    try:
        state = json.loads(Path(path).read_text())
        generator, spec = state["generator"], Spec(**state["spec"])
        run = spec, state["seed"], state["split"], state["position"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        bound = f"a file with the JSON of a state_dict ({said})"
        raise InvalidArgument("state", path, bound) from error
    if generator != GENERATOR:
        raise InvalidArgument("state generator", generator, GENERATOR)
    return run


def _range(text: str) -> tuple[int, int]:
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal()):
        raise InvalidArgument("skip", text, "START:STOP, in samples")
    return int(start), int(stop)

"""The command `metalm`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metalm.client import TIMEOUT, MetaLMClient
from metalm.files import WRITERS, write
from metalm.iterator import STEP
from metalm.schedule import RANK, WORLD_SIZE
from metalm_proto import formats
from metalm_proto.errors import InvalidArgument, MetaLMError
from metalm_proto.fields import U64, Field
from metalm_proto.spec import (
    BATCH_SIZE,
    GENERATOR,
    INDEX,
    SEED,
    SPEC_FIELDS,
    SPLIT,
    START,
    Spec,
)

_SAMPLES = Field(name="samples", default=100, lower=1, upper=U64, doc="samples to write")
_SAMPLE_FORMATS: dict[str, Callable[..., str]] = {
    "json": formats.sample_to_json,
    "text": formats.to_text,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for a failure, 2 for wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except InvalidArgument as error:
        return _failed(error, 2)
    except BrokenPipeError:
        # The reader has enough (`metalm sample | head`). Nothing more can be written, not even
        # what Python would flush on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        return _failed(f"{error}; install what it needs with: pip install '.[service]'", 1)
    except OSError as error:
        return _failed(error.strerror or error, 1)
    except MetaLMError as error:
        return _failed(error, 1)
    return 0


def _failed(error: object, status: int) -> int:
    print(f"metalm: {error}", file=sys.stderr)
    return status


def _serve(options: argparse.Namespace) -> None:
    # The service is imported by the commands that are the service, and by no other.
    from metalm_service.config import ServerConfig
    from metalm_service.server import serve

    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    # A reader that goes away in the middle of a stream is no event: it is how iterators are left.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    config = ServerConfig.load(vars(options), os.environ)
    serve(config, lambda line: print(line, flush=True))


def _warm(options: argparse.Namespace) -> None:
    from metalm_service.core import engine

    engine.warm()


def _sample(options: argparse.Namespace) -> None:
    if options.provenance and options.format == "text":
        raise InvalidArgument("provenance", True, "absent with --format text")
    with _client(options) as client:
        batch = client.sample(
            _parsed(INDEX, options),
            seed=_parsed(SEED, options),
            split=_parsed(SPLIT, options),
            provenance=options.provenance,
            spec=_spec(options),
        )
    if options.seed is None:
        print(f"metalm: seed {batch.seed}", file=sys.stderr)
    print(_SAMPLE_FORMATS[options.format](batch), end="")


def _generate(options: argparse.Namespace) -> None:
    # As an exception, so that the half-written file is taken away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if options.output == "":
        raise InvalidArgument("output", "", "the name of a file, or -")
    start, samples = _parsed(START, options), _parsed(_SAMPLES, options)
    with (
        _client(options) as client,
        client.batches(
            spec=_spec(options),
            seed=_parsed(SEED, options),
            split=_parsed(SPLIT, options),
            start=start,
            stop=start + samples,
            batch_size=min(32, samples),
        ) as batches,
    ):
        if options.seed is None:
            print(f"metalm: seed {batches.seed}", file=sys.stderr)
        by_name = "npz" if (options.output or "").endswith(".npz") else "text"
        write(batches, samples, options.output, options.format or by_name)


def _replay(options: argparse.Namespace) -> None:
    """Without --state the run is the flags'; with it, the state's, counted from its position."""
    seed, split, spec, start = (
        _parsed(SEED, options),
        _parsed(SPLIT, options),
        _spec(options),
        _parsed(START, options),
    )
    if options.state is not None:
        fields = (*SPEC_FIELDS, SEED, SPLIT, START)
        given = [field.name for field in fields if getattr(options, field.name) is not None]
        if given:
            raise InvalidArgument(given[0], getattr(options, given[0]), "absent with --state")
        spec, seed, split, start = _state(options.state)
    elif seed is None:
        raise InvalidArgument("seed", None, "given, or a --state that has it: which run is it?")
    with _client(options) as client:
        run = client.batches(
            spec=spec,
            seed=seed,
            split=split,
            start=start,
            batch_size=_parsed(BATCH_SIZE, options),
            rank=_parsed(RANK, options),
            world_size=_parsed(WORLD_SIZE, options),
            skip=[_range(text) for text in options.skip],
            provenance=options.provenance,
        )
        batch = run.at(_parsed(STEP, options))
    print(formats.to_json(batch))


def _state(path: str) -> tuple[Spec, int, str, int]:
    """The run that a file with the JSON of `BatchIterator.state_dict` is of."""
    try:
        state = json.loads(Path(path).read_text())
        generator, position = state["generator"], state["position"]
        run = Spec(**state["spec"]), state["seed"], state["split"], position
    except (ValueError, TypeError, KeyError) as error:
        bound = f"a file with the JSON of a state_dict ({error})"
        raise InvalidArgument("state", path, bound) from error
    if generator != GENERATOR:
        raise InvalidArgument("state generator", generator, GENERATOR)
    return run


def _range(text: str) -> tuple[int, int]:
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal()):
        raise InvalidArgument("skip", text, "START:STOP, in samples")
    return int(start), int(stop)


def _bench(options: argparse.Namespace) -> None:
    from metalm.bench.suite import run

    run(quick=options.quick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metalm",
        description="Seeded MetaLM batches for research in lifelong in-context learning.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"metalm {version('metalm')} ({GENERATOR})"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> Any:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    serving = command("serve", _serve, "Serve batches over HTTP and gRPC.")
    try:
        from metalm_service.config import ServerConfig
    except ModuleNotFoundError:  # the files of the service were left out on purpose
        pass
    else:
        ServerConfig.add_flags(serving)

    command("warm", _warm, "Compile the kernels and keep them for the next start.")

    sampling = command("sample", _sample, "Print one sample.")
    _add_stream_flags(sampling)
    _add_flag(sampling, INDEX)
    sampling.add_argument("--format", choices=_SAMPLE_FORMATS, default="json", help="[json]")
    sampling.add_argument("--provenance", action="store_true", help="add where tokens come from")

    generating = command("generate", _generate, "Write samples to a file, as MetaGym does.")
    _add_stream_flags(generating)
    _add_flag(generating, START)
    _add_flag(generating, _SAMPLES)
    generating.add_argument(
        "--output", metavar="FILE", help="file to write; standard output if absent or -"
    )
    generating.add_argument(
        "--format", choices=WRITERS, help="text is MetaGym's [npz if FILE ends so, else text]"
    )

    replaying = command("replay", _replay, "Print the batch that a run saw at a step, as JSON.")
    _add_stream_flags(replaying)
    for field in (START, STEP, BATCH_SIZE, RANK, WORLD_SIZE):
        _add_flag(replaying, field)
    replaying.add_argument(
        "--state", metavar="FILE", help="JSON of a state_dict: its run, steps from its position on"
    )
    replaying.add_argument(
        "--skip", metavar="START:STOP", action="append", default=[], help="samples stepped over"
    )
    replaying.add_argument("--provenance", action="store_true", help="add where tokens come from")

    benching = command("bench", _bench, "Measure the speed of this machine's generator and doors.")
    benching.add_argument("--quick", action="store_true", help="fewer repetitions, less certain")
    return parser


def _add_stream_flags(parser: argparse.ArgumentParser) -> None:
    for field in (*SPEC_FIELDS, SEED, SPLIT):
        _add_flag(parser, field)
    parser.add_argument(
        "--url",
        action="append",
        help="service to ask, http(s):// or grpc(s)://, several times for several; by default this "
        "process generates",
    )
    _add_flag(parser, TIMEOUT)


def _add_flag(parser: argparse.ArgumentParser, field: Field) -> None:
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


def _parsed(field: Field, options: argparse.Namespace) -> Any:
    text = getattr(options, field.name)
    return field.default if text is None else field.parse(text)


def _client(options: argparse.Namespace) -> MetaLMClient:
    return MetaLMClient(options.url or "inprocess:", timeout_s=_parsed(TIMEOUT, options))


def _spec(options: argparse.Namespace) -> Spec:
    return Spec(**{field.name: _parsed(field, options) for field in SPEC_FIELDS})

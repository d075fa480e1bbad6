"""The command `metalm`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from metalm import flags
from metalm.doctor.command import add_doctor_flags, doctor
from metalm.eval.command import add_evaluation_commands
from metalm.files.command import add_generate_flags, add_verify_flags, generate, verify
from metalm.replay import add_replay_flags, replay
from metalm.top.command import add_top_flags, top
from metalm_proto import formats
from metalm_proto.errors import InvalidArgument, MetaLMError
from metalm_proto.spec import GENERATOR, INDEX, SEED, SPLIT

_SAMPLE_FORMATS: dict[str, Callable[..., str]] = {
    "json": formats.sample_to_json,
    "text": formats.to_text,
}

_EXTRAS = {"matplotlib": "eval", "numba": "core", "pyarrow": "arrow"}
"""Which extra brings a module; what stands in none of these is the service's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for a failure, 2 for wrong usage."""
    # gRPC's core would write lines of its own about each handshake that fails, and what callers of
    # the service send byte for byte.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status = options.run(options) or 0
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
        if error.name is None:  # ours, which says what to do
            return _failed(str(error), 1)
        extra = _EXTRAS.get(error.name.partition(".")[0], "service")
        return _failed(f"{error}; install what it needs with: pip install '.[{extra}]'", 1)
    except OSError as error:
        return _failed(error.strerror or error, 1)
    except MetaLMError as error:
        return _failed(error, 1)
    return int(status)


def _failed(error: object, status: int) -> int:
    print(f"metalm: {error}", file=sys.stderr)
    return status


def _serve(options: argparse.Namespace) -> None:
    # The service is imported by the commands that are the service, and by no other.
    from metalm_service import logs
    from metalm_service.config import ServerConfig
    from metalm_service.server import serve

    config = ServerConfig.load(vars(options), os.environ)
    logs.configure(config.log_format, config.log_level)
    serve(config, lambda line: print(line, flush=True))


def _warm(options: argparse.Namespace) -> None:
    from metalm_service.core import engine

    engine.warm()
    if engine.engine_name() == "numba":
        from metalm_service.core import floors

        floors.warm()


def _sample(options: argparse.Namespace) -> None:
    if options.provenance and options.format == "text":
        raise InvalidArgument("provenance", True, "absent with --format text")
    with flags.client(options) as client:
        batch = client.sample(
            flags.parsed(INDEX, options),
            seed=flags.parsed(SEED, options),
            split=flags.parsed(SPLIT, options),
            provenance=options.provenance,
            spec=flags.spec(options),
        )
    if options.seed is None:
        print(f"metalm: seed {batch.seed}", file=sys.stderr)
    print(_SAMPLE_FORMATS[options.format](batch), end="")


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

    def command(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> Any:
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
    flags.add_stream(sampling)
    flags.add(sampling, INDEX)
    flags.add_preset(sampling)
    sampling.add_argument("--format", choices=_SAMPLE_FORMATS, default="json", help="[json]")
    sampling.add_argument("--provenance", action="store_true", help="add where tokens come from")

    add_generate_flags(command("generate", generate, "Write samples to a file, or to shards."))
    add_verify_flags(command("verify", verify, "Compare files with the samples they should hold."))

    add_replay_flags(command("replay", replay, "Print the batch that a run saw at a step."))

    add_evaluation_commands(command)

    add_top_flags(command("top", top, "Show what the replicas of a service are doing."))
    add_doctor_flags(command("doctor", doctor, "Say what is wrong with a service, from here."))

    benching = command("bench", _bench, "Measure the speed of this machine's generator and doors.")
    benching.add_argument("--quick", action="store_true", help="a single, short round")
    return parser

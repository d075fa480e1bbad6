"""The commands `metalm generate` and `metalm verify`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from metalm import flags
from metalm.files.base import SAMPLES, Difference, batch_size_for
from metalm.files.ending import end_by_exception
from metalm.files.formats import SUFFIXES, format_of
from metalm.files.manifest import SHARD_SAMPLES, Run
from metalm.files.single import write
from metalm.files.verify import claim_of, differences
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import SEED, SPLIT, START, BatchRequest, draw_seed


def add_generate_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_stream(parser)
    for field in (START, SAMPLES, SHARD_SAMPLES):
        flags.add(parser, field)
    flags.add_preset(parser)
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="file to write; standard output if absent or -; with --shard-samples a directory, in "
        "which an interrupted run goes on",
    )
    parser.add_argument(
        "--format",
        choices=SUFFIXES,
        help="text is MetaGym's; parquet and arrow need the extra arrow [as PATH ends, else text; "
        "npz for shards]",
    )


def generate(options: argparse.Namespace) -> None:
    """Writes a file, standard output, or a directory of shards.

    Raises InvalidArgument and any other MetaLMError, OSError, and ModuleNotFoundError for what the
    format needs: of each the command line makes a line and an exit code.
    """
    end_by_exception()
    if options.output == "":
        raise InvalidArgument("output", "", "the name of a file, or -")
    shard_samples = flags.parsed(SHARD_SAMPLES, options)
    if shard_samples is not None:
        _generate_shards(options, shard_samples)
        return
    request = _request(options, None)
    with flags.client(options) as client:
        form = options.format or format_of(options.output) or "text"
        write(client, request, options.output, form)


def _generate_shards(options: argparse.Namespace, shard_samples: int) -> None:
    # Not before they are asked for: they use locks of files, which not every system has.
    from metalm.files.journal import recorded
    from metalm.files.shards import write_shards

    if options.output in (None, "-"):
        raise InvalidArgument("output", options.output, "a directory, as shard_samples is given")
    directory = Path(options.output)
    begun = recorded(directory)
    request = _request(options, None if begun is None else begun.request.seed)
    run = Run.now(request, options.format or "npz", shard_samples)
    with flags.client(options) as client:
        write_shards(client, run, directory)


def _request(options: argparse.Namespace, begun: int | None) -> BatchRequest:
    """The samples to write; without a seed, of the stream that was `begun` or of a new one."""
    seed = flags.parsed(SEED, options)
    spec = flags.spec(options)
    start = flags.parsed(START, options)
    if seed is None:
        seed = draw_seed() if begun is None else begun
        print(f"metalm: seed {seed}", file=sys.stderr)
    return BatchRequest(
        spec=spec,
        seed=seed,
        split=flags.parsed(SPLIT, options),
        start=start,
        stop=start + flags.parsed(SAMPLES, options),
        batch_size=batch_size_for(spec),
    )


def add_verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "manifest",
        metavar="MANIFEST",
        help="manifest.json, its directory, or an npz, parquet, arrow or jsonl file of generate",
    )
    flags.add_url(parser)


def verify(options: argparse.Namespace) -> int:
    """Prints the differences that it finds; the exit code: 0 if there are none, else 1.

    Raises InvalidArgument for what is no manifest and no file of samples, any other MetaLMError,
    and ModuleNotFoundError for what the format needs.
    """
    end_by_exception()
    try:
        claim = claim_of(Path(options.manifest))
    except Difference as error:
        print(f"metalm: {options.manifest}: {error}", file=sys.stderr)
        return 1
    found = 0
    with flags.client(options) as client:
        for line in differences(client, claim):
            found += 1
            tqdm.write(f"metalm: {line}", sys.stderr)
    if found:
        return 1
    request = claim.request
    print(
        f"{options.manifest}: {request.samples} samples of {request.generator}, seed {request.seed}"
        f", {request.split} from {request.start}, every token as it should be"
    )
    for name in claim.others:
        print(f"{options.manifest}: not of the run: {name}")
    return 0

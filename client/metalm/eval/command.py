"""The commands `metalm floors`, `evaluate`, `compare` and `presets`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from metalm import flags
from metalm.eval.comparison import comparison
from metalm.eval.ladder import floors
from metalm.eval.plots import SUFFIXES, plot_floors, plot_reports
from metalm.eval.presets import PRESETS, preset
from metalm.eval.report import Report, read_report
from metalm.eval.results import evaluator_of
from metalm.eval.text import aligned, floors_text, report_text
from metalm_proto.errors import InvalidArgument
from metalm_proto.floors import STREAM_FIELDS
from metalm_proto.spec import SPEC_FIELDS


def add_evaluation_commands(command: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    """Adds the commands: `command` is given name, function and text of each."""
    _add_floors_flags(command("floors", run_floors, "Print how well a model can do at best."))
    _add_evaluate_flags(command("evaluate", run_evaluate, "Say how well a model did."))
    _add_compare_flags(command("compare", run_compare, "Print reports side by side."))
    _add_presets_flags(command("presets", run_presets, "List evaluation sets, or verify them."))


def _add_floors_flags(parser: argparse.ArgumentParser) -> None:
    for field in (*SPEC_FIELDS, *STREAM_FIELDS):
        flags.add(parser, field)
    flags.add_preset(parser)
    _add_output_flags(parser, "floors")


def run_floors(options: argparse.Namespace) -> None:
    """Prints the floors, and writes them as JSON and as a picture. Raises any MetaLMError, OSError,
    and ModuleNotFoundError."""
    outputs = _Outputs(options, "floors")
    found = floors(
        flags.spec(options),
        **{field.name: flags.parsed(field, options) for field in STREAM_FIELDS},
    )
    outputs.give(floors_text(found), found.write, lambda path: plot_floors(found, path))


def _add_evaluate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        metavar="RESULTS",
        help="npz with log_probs, floats [N, L] in nats (or logits), spec (JSON), seed, split, "
        "first, label; see metalm.eval.results",
    )
    flags.add_preset(parser)
    parser.add_argument("--label", help="the model's name in tables and pictures")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="leave out the ladder and the effective memory, which take most of the time",
    )
    _add_output_flags(parser, "report")


def run_evaluate(options: argparse.Namespace) -> None:
    """Prints a report, and writes it as JSON and as a picture. Raises as `run_floors` does."""
    outputs = _Outputs(options, "report")
    chosen = None if options.preset is None else preset(options.preset)
    evaluator = evaluator_of(options.results, chosen, options.label)
    report = evaluator.report(ladder=not options.brief, memory=not options.brief)
    outputs.give(report_text(report), report.write, lambda path: plot_reports(report, path))


def _add_compare_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="JSON of metalm evaluate")
    parser.add_argument(
        "--unpaired", action="store_true", help="compare reports on other samples, too"
    )
    parser.add_argument("--plot", metavar="FILE", help="all models in one picture, PNG or SVG")


def run_compare(options: argparse.Namespace) -> None:
    """Prints the reports side by side. Raises InvalidArgument for reports on other samples."""
    if len(options.reports) < 2:
        raise InvalidArgument("reports", options.reports, "two or more")
    if options.plot is not None:
        _check_suffix(options.plot)
    reports = [read_report(path) for path in options.reports]
    names = [_name(report, path) for report, path in zip(reports, options.reports, strict=True)]
    text = comparison(reports, names, paired=not options.unpaired)
    # First, as whoever reads the text may leave in the middle of it.
    if options.plot is not None:
        named = [replace(report, label=name) for report, name in zip(reports, names, strict=True)]
        plot_reports(named, options.plot)
    print(text)


def _add_presets_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.add_argument(
        "--verify",
        metavar="NAME",
        nargs="*",
        help="generate these anew, or all, and compare their SHA-256",
    )


def run_presets(options: argparse.Namespace) -> int:
    """Lists the presets, or verifies them: then 1 if one has other bytes. Raises InvalidArgument
    for a name that there is not."""
    if options.verify is None:
        chosen = list(PRESETS.values())
        if options.json:
            print(json.dumps([one.as_dict() for one in chosen], indent=2))
            return 0
        rows = [["name", "profile", "V", "n", "l", "e", "L", "samples", "sha256"]]
        for one in chosen:
            spec = one.evaluation_set.spec
            values = (spec.profile, spec.V, spec.n, f"{spec.l:g}", f"{spec.e:g}", spec.L)
            told = [str(value) for value in (*values, one.evaluation_set.samples)]
            rows.append([one.name, *told, one.sha256])
        print(*aligned(rows), sep="\n")
        return 0
    chosen = [preset(name) for name in options.verify or PRESETS]
    status = 0
    for one in chosen:
        try:
            one.verify()
        except InvalidArgument as error:
            print(f"metalm: {error}", file=sys.stderr)
            status = 1
        else:
            print(f"{one.name}: {one.evaluation_set.samples} samples, sha256 {one.sha256}")
    return status


def _add_output_flags(parser: argparse.ArgumentParser, base: str) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="BASE",
        help=f"write BASE.json and BASE.png [{base}]",
    )
    parser.add_argument("--json", metavar="FILE", help="file of the JSON instead of BASE.json")
    parser.add_argument(
        "--plot", "--png", metavar="FILE", help="picture instead of BASE.png; PNG or SVG by its end"
    )
    parser.add_argument("--no-files", action="store_true", help="only print")


class _Outputs:
    """Where the JSON and the picture go. Raises InvalidArgument before anything is computed."""

    def __init__(self, options: argparse.Namespace, base: str) -> None:
        given = [name for name in ("output", "json", "plot") if getattr(options, name) is not None]
        if options.no_files and given:
            raise InvalidArgument(given[0], getattr(options, given[0]), "absent with --no-files")
        stem = options.output or base
        self._json = None if options.no_files else options.json or f"{stem}.json"
        self._plot = None if options.no_files else options.plot or f"{stem}.png"
        # What nobody asked for may be missing.
        self._plot_is_wanted = bool(given and given != ["json"])
        if self._plot is not None:
            _check_suffix(self._plot)

    def give(
        self,
        text: str,
        write_json: Callable[[str], object],
        write_plot: Callable[[str], object],
    ) -> None:
        """Writes the files, as whoever reads the text may leave in the middle of it, and prints the
        text even if they cannot be written: it may have taken long."""
        written: list[str] = []
        try:
            if self._json is not None:
                write_json(self._json)
                written.append(self._json)
            if self._plot is not None and self._drawn(self._plot, write_plot):
                written.append(self._plot)
        finally:
            print(text, flush=True)
        if written:
            print(f"\nwritten: {', '.join(written)}")

    def _drawn(self, path: str, write_plot: Callable[[str], object]) -> bool:
        try:
            write_plot(path)
        except ModuleNotFoundError as error:
            if self._plot_is_wanted or not (error.name or "").startswith("matplotlib"):
                raise
            print(
                "metalm: no picture, as there is no matplotlib; install it with: "
                "pip install '.[eval]'",
                file=sys.stderr,
            )
            return False
        return True


def _check_suffix(path: str) -> None:
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InvalidArgument("plot", path, f"a name that ends in {', '.join(SUFFIXES)}")


def _name(report: Report, path: str) -> str:
    return report.label or Path(path).stem

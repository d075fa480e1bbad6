"""Reports, evaluation sets and pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from metalm import InvalidArgument, MetaLMClient, Profile, Spec
from metalm.eval import (
    PRESETS,
    EvaluationSet,
    Evaluator,
    Report,
    floors,
    plot_floors,
    plot_reports,
    preset,
    read_report,
    report_schema,
)
from metalm.eval.published import published_curves
from metalm.eval.text import report_text
from tests.client.evaluated import SAMPLES, SEED, SPEC, evaluated, predictions

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluated("vote").report()


def test_a_report_is_what_its_schema_says(report: Report) -> None:
    schema = report_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    single = Evaluator(SPEC, SEED)
    single.update(2**63, predictions("vote")[:1])
    for one in (report, single.report(ladder=False), evaluated("uniform").report(memory=False)):
        validator.validate(json.loads(json.dumps(one.as_dict(), allow_nan=False)))
    wrong = {**json.loads(json.dumps(report.as_dict())), "samples": "many"}
    assert not validator.is_valid(wrong)


def test_what_is_written_is_read_again(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write(tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    (tmp_path / "other.json").write_text('{"schema": "another"}')
    monkeypatch.chdir(tmp_path)  # of a long path only the beginning is told
    with pytest.raises(
        InvalidArgument, match=r"report is 'other\.json'; it must be a report of the schema"
    ):
        read_report("other.json")
    (tmp_path / "no.json").write_text("[")
    for name in ("no.json", "absent.json"):
        with pytest.raises(InvalidArgument, match="it must be a file of JSON"):
            read_report(tmp_path / name)


def test_a_report_says_what_it_is_of(report: Report) -> None:
    fields = report.as_dict()
    assert fields["spec"] == SPEC.as_dict()
    assert (fields["seed"], fields["split"], fields["label"]) == (SEED, "test", "vote")
    assert (fields["ranges"], fields["samples"]) == ([[0, SAMPLES]], SAMPLES)
    assert fields["preset"] is None
    x, y = MetaLMClient("inprocess:").batch(
        0, spec=SPEC, seed=SEED, split="test", batch_size=SAMPLES
    )
    right = hashlib.sha256(b"".join(x[i].tobytes() + y[i].tobytes() for i in range(SAMPLES)))
    assert fields["sha256"] == right.hexdigest()


def test_the_units_are_what_their_names_say(report: Report) -> None:
    score = report.overall
    assert score.ppl is not None
    assert score.nll_bits == pytest.approx(score.nll_nats / 0.6931471805599453)
    assert score.ppl == pytest.approx(2**score.nll_bits)
    assert score.ci95_nats is not None
    assert score.se_nats is not None
    low, high = score.ci95_nats
    assert (high - low) / 2 == pytest.approx(2.0687 * score.se_nats, rel=1e-4)  # t of 23


def test_the_ladder_is_that_of_the_same_samples(report: Report) -> None:
    assert report.floors["vote"].mean == pytest.approx(report.overall.nll_nats)
    curves = report.tables["segment"].curves
    assert curves["vote"].mean == curves["model"].mean
    rungs = ("uniform", "content-free", "vote", "greedy", "known")
    heights = [report.floors[name].mean for name in rungs]
    assert heights == sorted(heights, reverse=True)


def test_wide_vocabularies_are_hashed_little_endian() -> None:
    spec = Spec(V=300, n=3, l=4, e=0.1, L=5)
    chosen = EvaluationSet(spec=spec, seed=1, ranges=((2, 3), (7, 9)))
    state = hashlib.sha256()
    for index in (2, 7, 8):
        x, y = MetaLMClient("inprocess:").sample(index, spec=spec, seed=1, split="test")
        state.update(x.astype("<u2").tobytes() + y.astype("<u2").tobytes())
    assert chosen.sha256() == state.hexdigest()
    assert chosen.samples == 3
    for ranges in (((3, 3),), ((4, 6), (5, 7)), ((2**64, 2**64 + 1),)):
        with pytest.raises(InvalidArgument, match="it must be ascending, apart and not empty"):
            EvaluationSet(spec=spec, seed=1, ranges=ranges)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_same_for_ever(name: str) -> None:
    """A change of one of these is a defect: papers refer to them."""
    preset(name).verify()


def test_the_presets_are_those_that_were_published_and_larger_ones() -> None:
    told = {
        (s.V, s.n, s.l, s.e, s.L, str(s.profile))
        for s in (one.evaluation_set.spec for one in PRESETS.values())
    }
    assert told == {
        *(
            (64, n, l, 0.1, 4096, p)
            for n, l in ((5, 32), (10, 32), (10, 64))
            for p in ("metalm", "metagym")
        ),
        (64, 50, 64, 0.1, 20_000, "metalm"),
        (256, 200, 64, 0.1, 78_000, "metalm"),
        (1024, 1000, 64, 0.1, 390_000, "metalm"),
    }
    assert all(str(one.evaluation_set.split) == "test" for one in PRESETS.values())


def test_a_preset_that_has_changed_is_found() -> None:
    with pytest.raises(InvalidArgument, match="sha256 of 10x32 is 'c9"):
        replace(preset("10x32"), evaluation_set=preset("5x32-metagym").evaluation_set).verify()
    with pytest.raises(InvalidArgument, match="preset is '10x33'; it must be one of 5x32-metagym"):
        preset("10x33")


def test_published_curves_belong_to_their_setting() -> None:
    spec = preset("10x64-metagym").evaluation_set.spec
    curves = published_curves(spec)
    assert [curve.model.partition(",")[0] for curve in curves] == ["Transformer-XL", "LSTM"]
    assert (curves[0].t_end[-1], curves[0].nll_nats[0]) == (4096, 4.128)
    assert not published_curves(replace(spec, profile=Profile.METALM))
    assert len(published_curves(preset("5x32-metagym").evaluation_set.spec)) == 1


def test_pictures_of_reports(report: Report, tmp_path: Path) -> None:
    other = evaluated("bayes-64").report(memory=False)
    plot_reports([report, other], tmp_path / "two.png")
    assert (tmp_path / "two.png").read_bytes().startswith(PNG)
    figure = plot_reports([report, other], tmp_path / "two.svg")
    assert ElementTree.parse(tmp_path / "two.svg").getroot().tag.endswith("svg")
    told = [text.get_text() for text in figure.axes[0].texts]
    for label in ("vote", "bayes-64", "language known", "Bayes, last 128 tokens"):
        assert label in told
    assert b"dc:date" not in (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize(
    ("length", "points", "label"),
    [(256, 32, "means over 8 tokens"), (20, 20, "position in the sequence")],
)
def test_a_picture_of_short_sequences_has_points_enough(
    length: int, points: int, label: str
) -> None:
    spec = replace(SPEC, L=length)
    found = evaluated("vote", spec).report(memory=False)
    for figure in (plot_reports(found), plot_floors(floors(spec, SEED, samples=2))):
        panel = figure.axes[0]
        assert {np.size(line.get_xdata()) for line in panel.get_lines()} == {points}
        assert panel.get_xlabel().endswith(label)


def test_labels_and_intervals_leave_room_for_the_curves(report: Report) -> None:
    """However long a label is, and however wide an interval of which a few sequences tell."""
    name = "a transformer with 6 layers, d_model 512, seed 1"
    axes = plot_reports(replace(report, label=name)).axes
    told = [text.get_text() for text in axes[0].texts]
    assert "a transformer with … 512, seed 1" in told
    table = report.tables["exposure"]
    model = table.curves["model"]
    wide = replace(model, ci95=(1e6,) * len(model.ci95))
    tables = {**report.tables, "exposure": replace(table, curves={**table.curves, "model": wide})}
    cut = plot_reports(replace(report, tables=tables)).axes[1]
    highest = max(mean for mean in model.mean if mean is not None)
    assert highest < cut.get_ylim()[1] < 2 * highest


def test_a_window_over_the_whole_sequence_is_not_drawn_beside_bayes() -> None:
    found = floors(replace(SPEC, L=256), SEED, samples=2)
    told = [text.get_text() for text in plot_floors(found).axes[0].texts]
    assert [text for text in told if text.startswith("Bayes, last")] == ["Bayes, last 128 tokens"]


def test_pictures_that_cannot_be(report: Report, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgument, match=r"plot is '.*two.gif'; it must be a name that ends in"
    ):
        plot_reports(report, tmp_path / "two.gif")
    with pytest.raises(InvalidArgument, match="reports"):
        plot_reports([])
    with pytest.raises(InvalidArgument, match=r"sha256 is .*; it must be .*, as of the first"):
        plot_reports([report, evaluated("vote", samples=SAMPLES - 1).report(memory=False)])


def test_a_picture_of_floors_has_the_published_curves(tmp_path: Path) -> None:
    spec = preset("10x32-metagym").evaluation_set.spec
    found = floors(spec, seed=0, samples=2, predictors=("greedy", "genie", "bayes-128", "known"))
    figure = plot_floors(found, tmp_path / "floors.png")
    told = [text.get_text() for text in figure.axes[0].texts]
    assert {"published: Transformer-XL", "published: LSTM", "Bayes, last 128 tokens"} <= set(told)
    assert figure.axes[0].get_xlabel().endswith("means over 128 tokens")
    found.write(tmp_path / "floors.json")
    document = json.loads((tmp_path / "floors.json").read_text())
    assert (document["schema"], document["samples"]) == ("metalm-floors-1", 2)
    assert document["closed_forms"]["horizon_tokens"] == 1980


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, L=1),
        Spec(
            V=2, n=2, l=3, e=0.5, L=200, profile=Profile.METAGYM
        ),  # a single symbol: nothing to learn
        Spec(V=2, n=1, l=0.5, e=0, L=129, mask_ratio=1),
        Spec(V=1000, n=2000, l=50, e=0.9, L=300, language=3),
    ],
)
def test_odd_specs_can_be_reported(spec: Spec, tmp_path: Path) -> None:
    evaluator = Evaluator(spec, SEED)
    evaluator.update(0, np.full((4, spec.L), -np.log(spec.vocabulary)))
    found = evaluator.report()
    plot_reports(found, tmp_path / "odd.png")
    assert report_text(found).startswith("model on V=")
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    Draft202012Validator(report_schema()).validate(told)
    assert Report.from_dict(told) == found
    plot_floors(floors(spec, SEED, samples=2), tmp_path / "odd.svg")

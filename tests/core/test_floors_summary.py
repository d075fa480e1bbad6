"""Sums of floors: what they are made of does not depend on how they were cut."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student

from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import Spec, Split
from metalm_service.core.floors import LADDER, Targets, losses, summary
from metalm_service.core.floors.layout import layout_of
from metalm_service.core.floors.tally import Tally, t95

SPEC = Spec(V=8, n=3, l=5, e=0.1, L=300)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 15, 63, 1000])
def test_the_quantile_is_students(degrees: int) -> None:
    assert t95(degrees) == pytest.approx(student.ppf(0.975, degrees), rel=2e-3)


def test_there_is_none_without_degrees_of_freedom() -> None:
    assert np.isnan(t95(0))


def test_threads_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("greedy", "genie", "vote")
    whole = summary.summarise(SPEC, 1, Split.TEST, 5, 11, names, threads=1)
    monkeypatch.setattr(summary, "_TOKENS_AT_A_TIME", 2 * SPEC.L)
    alone, together = (
        summary.summarise(SPEC, 1, Split.TEST, 5, 11, names, threads=threads) for threads in (1, 3)
    )
    assert alone.as_dict() == together.as_dict()
    assert alone.exact == whole.exact
    for name in names:
        assert np.array_equal(alone.sequences[name], whole.sequences[name])
        found, right = (one.estimates(name, "segment") for one in (alone, whole))
        assert found.mean == pytest.approx(right.mean, rel=1e-12)


def test_means_are_those_of_the_losses() -> None:
    found = summary.summarise(SPEC, 1, Split.TEST, 5, 11)
    assert found.predictors == LADDER
    raw = losses(SPEC, 1, Split.TEST, 5, 11, LADDER)
    for name in LADDER:
        right = raw[name].astype(np.float64)
        assert found.estimates(name, "overall").mean[0] == pytest.approx(right.mean())
        assert found.estimates(name, "position").mean == pytest.approx(right.mean(0))
        segments = [right[:, low : low + 8].mean() for low in range(0, 300, 8)]
        assert found.estimates(name, "segment").mean == pytest.approx(segments)
        assert found.estimates(name, "plateau").mean[0] == pytest.approx(right[:, 150:].mean())
    assert 0 <= (found.exact or 0) <= 11


def test_errors_are_of_those_sequences_that_have_tokens_there() -> None:
    """By hand: of six sequences three are in the first bin, two in the next, one in the third."""
    exposure = np.array([[0, 0], [0, 1], [0, 1], [5, 5], [2, 2], [5, 5]], np.int32)
    nowhere, loss = np.full((6, 2), -1, np.int32), np.arange(12.0).reshape(6, 2) ** 1.5
    spec = replace(SPEC, L=2)
    tally = Tally(spec, ["model"])
    tally.add({"model": loss}, Targets(nowhere, np.zeros_like(nowhere), exposure, nowhere))
    found = tally.estimates("model", "exposure")
    bins = layout_of(spec).bins("exposure")
    for place, one in enumerate(bins):
        inside = exposure == one["from"] if one["to"] else exposure >= (one["from"] or 0)
        n = inside.sum(axis=1)
        total, n = (loss * inside).sum(axis=1)[n > 0], n[n > 0]
        if len(n) < 2:
            assert np.isnan(found.se[place])
            continue
        residuals = total - total.sum() / n.sum() * n
        right = np.sqrt(len(n) / (len(n) - 1) * np.square(residuals).sum()) / n.sum()
        assert found.se[place] == pytest.approx(right)
        assert found.t95[place] == pytest.approx(student.ppf(0.975, len(n) - 1), rel=2e-3)
    assert found.tokens.tolist()[:3] == [4, 2, 6]


def test_the_document_is_json_and_its_length_is_bounded() -> None:
    found = summary.summarise(SPEC, 1, Split.TEST, 0, 2, ("known", "uniform"))
    with_steps, without = (found.as_dict(steps=steps) for steps in (True, False))
    json.dumps(with_steps, allow_nan=False)
    assert len(with_steps["predictors"]["known"]["position"]["mean"]) == SPEC.L
    assert "position" not in without["predictors"]["known"]
    assert without["exact_samples"] is None
    assert without["schema"] == "metalm-floors-1"


def test_work_ends_when_it_is_told_to() -> None:
    class Enough(Exception):
        pass

    def proceed() -> None:
        raise Enough

    with pytest.raises(Enough):
        summary.summarise(SPEC, 1, Split.TEST, 0, 2, proceed=proceed)


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "predictors is .*; it must be at least one"), (("bayes",), "predictor is 'bayes'")],
)
def test_predictors_that_there_are_not(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        summary.summarise(SPEC, 1, Split.TEST, 0, 2, names)


@pytest.mark.parametrize(
    ("length", "steps"),
    [(1, 1), (63, 1), (64, 2), (256, 8), (1000, 16), (4095, 64), (4096, 128), (390_000, 128)],
)
def test_a_segment_suits_the_sequence(length: int, steps: int) -> None:
    bins = layout_of(Spec(V=8, n=3, l=5, L=length)).bins("segment")
    assert bins[0] == {"from": 0, "to": steps}
    assert bins[-1] == {"from": (length - 1) // steps * steps, "to": length}
    assert len(bins) >= min(length, 32)


@pytest.mark.parametrize("length", [1, 2, 7, 127, 128, 129, 5000, 390_000])
def test_every_bin_has_bounds_and_every_token_a_bin(length: int) -> None:
    layout = layout_of(Spec(V=8, n=3, l=5, L=length))
    for part, place in layout.parts.items():
        if part != "position":
            assert len(layout.bins(part)) == place.stop - place.start
    far = np.array([[0, 1, 2, 100, length]])
    lags = [-1, 4, 6, 100, max(4, length)]  # no repetition is shorter than 4
    indices = layout.indices(far, np.array([lags]), far)
    for part, index in indices.items():
        bins = layout.bins(part)
        assert index.max() < len(bins)
        for value, lag, place in zip(far[0], lags, index[0], strict=True):
            if part == "lag" and lag < 0:
                assert place == -1
                continue
            looked_at = lag if part == "lag" else value
            one = bins[int(place)]
            assert (one["from"] or 0) <= looked_at < (one["to"] or np.inf)

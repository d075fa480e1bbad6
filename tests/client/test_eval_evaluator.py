"""The evaluator, against predictors of which the right answer is known."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metalm import Batch, CorruptBatch, InvalidArgument, MetaLMClient, Profile, Spec
from metalm.eval import Evaluator, Report
from metalm.eval import inputs as eval_inputs
from tests.client.evaluated import SAMPLES, SEED, SPEC, evaluated, predictions


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, profile=Profile.METAGYM, e=0.2)])
def test_the_floors_themselves_have_no_excess(spec: Spec) -> None:
    report = evaluated("greedy", spec).report(ladder=False)
    assert (report.excess.over_greedy.mean, report.excess.over_greedy.se) == (0, 0)
    assert report.cumulative.over_greedy.mean == 0
    assert not any(report.tables["position"].curves["over-greedy"].mean)
    assert report.overall.nll_nats == report.floors["greedy"].mean
    genie = evaluated("genie", spec).report(ladder=False, memory=False)
    assert genie.excess.over_genie.mean == 0
    assert genie.excess.over_greedy.mean <= 0


def test_the_excess_is_paired_with_the_floor_on_the_same_tokens() -> None:
    """A model that is everywhere half a nat above the floor: there is nothing random about it."""
    evaluator = Evaluator(SPEC, SEED)
    evaluator.update(0, predictions("greedy").astype(np.float64) - 0.5)
    report = evaluator.report(ladder=False, memory=False)
    assert report.excess.over_greedy.mean == pytest.approx(0.5, abs=1e-7)
    assert report.excess.over_greedy.se == pytest.approx(0, abs=1e-7)
    assert report.overall.se_nats is not None
    assert report.overall.se_nats > 0.005
    assert report.cumulative.over_greedy.mean == pytest.approx(SPEC.L / 2)
    assert report.cumulative.over_greedy_languages == pytest.approx(
        SPEC.L / 2 / report.cumulative.learning_cost_nats
    )
    for table in report.tables.values():
        if table is not report.tables["cumulative"]:
            assert table.curves["over-greedy"].mean == pytest.approx(
                [0.5] * len(table.bins), abs=1e-6
            )


@pytest.mark.parametrize(("window", "tolerance"), [(64, 1e-9), (128, 1e-9), (50, 0.02), (83, 0.02)])
def test_a_learner_with_a_window_has_that_memory(window: int, tolerance: float) -> None:
    memory = evaluated(f"bayes-{window}").report(ladder=False).memory
    assert memory is not None
    assert memory.relation == "equal"
    assert memory.tokens == pytest.approx(window, rel=tolerance)
    assert memory.low is not None
    assert memory.high is not None
    assert memory.low <= memory.tokens <= memory.high


def test_memory_says_when_it_is_out_of_range() -> None:
    worse = evaluated("uniform").report(ladder=False).memory
    assert worse is not None
    assert (worse.relation, worse.tokens, worse.low) == ("below", 8, None)
    better = evaluated("known").report(ladder=False).memory
    assert better is not None
    assert (better.relation, better.tokens, better.high) == ("above", SPEC.L, None)


def test_noise_widens_the_interval_of_the_memory() -> None:
    evaluator = Evaluator(SPEC, SEED)
    noise = np.random.default_rng(1).uniform(-0.2, 0.2, (SAMPLES, 1))
    evaluator.update(0, predictions("bayes-64") * (1 + noise - noise.mean()))
    memory = evaluator.report(ladder=False).memory
    assert memory is not None
    assert memory.low is not None
    assert memory.high is not None
    assert memory.low < 62
    assert memory.high > 66


def same(a: Report, b: Report) -> None:
    """Up to the rounding of sums."""
    assert a.sha256 == b.sha256
    assert a.evaluation_set == b.evaluation_set
    assert a.exact_samples == b.exact_samples
    assert a.sequences == b.sequences
    assert a.overall.nll_nats == pytest.approx(b.overall.nll_nats, rel=1e-12)
    for name, table in a.tables.items():
        other = b.tables[name]
        assert (table.bins, table.tokens) == (other.bins, other.tokens)
        for curve in table.curves:
            for one, two in (
                (table.curves[curve].mean, other.curves[curve].mean),
                (table.curves[curve].se, other.curves[curve].se),
            ):
                assert one == pytest.approx(two, abs=2e-6)


def test_parts_in_any_order_are_the_whole() -> None:
    whole = evaluated("vote").report(ladder=False, memory=False)
    ranks = [Evaluator(SPEC, SEED, label="vote") for _ in range(3)]
    order = np.random.default_rng(3).permutation(SAMPLES // 2).tolist()
    for number, pair in enumerate(order):
        ranks[number % 3].update(2 * pair, predictions("vote")[2 * pair : 2 * pair + 2])
    middle, first, last = ranks
    first.merge(last)
    file = io.BytesIO()
    state: dict[str, Any] = dict(first.state())
    np.savez(file, **state)
    file.seek(0)
    with np.load(file) as saved:
        again = Evaluator.from_state(saved)
    again.merge(middle)
    same(again.report(ladder=False, memory=False), whole)


def test_what_is_merged_must_belong_together() -> None:
    evaluator = evaluated("vote")
    with pytest.raises(InvalidArgument, match="samples is 0; it must be samples that were not"):
        evaluator.merge(evaluated("vote"))
    with pytest.raises(InvalidArgument, match="seed is 8; it must be 7"):
        evaluator.merge(Evaluator(SPEC, 8, label="vote"))
    with pytest.raises(InvalidArgument, match="label"):
        evaluator.merge(Evaluator(SPEC, SEED, label="another"))
    with pytest.raises(
        InvalidArgument, match=r"state is .*; it must be what Evaluator.state\(\) gave"
    ):
        Evaluator.from_state({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sums": np.nan}, "sums is 'NaN or infinite'; it must be finite"),
        ({"indices": 0}, "1 indices of 24 samples"),
        ({"samples": 23}, "24 indices of 23 samples"),
    ],
)
def test_a_state_that_does_not_fit_together_is_refused(
    changes: dict[str, float], message: str
) -> None:
    state = evaluated("vote").state()
    for name, value in changes.items():
        state[name] = np.full_like(state[name], value)
    with pytest.raises(InvalidArgument, match=message):
        Evaluator.from_state(state)


def test_memory_use_does_not_grow_with_the_samples() -> None:
    few, many = Evaluator(SPEC, SEED), evaluated("vote")
    few.update(0, predictions("vote")[:1])
    for name in ("sums", "counts"):
        assert few.state()[name].nbytes == many.state()[name].nbytes
    assert many.state()["sequences"].nbytes == SAMPLES * 16


def test_batches_are_known_by_what_they_are() -> None:
    client = MetaLMClient("inprocess:")
    whole = evaluated("vote").report(ladder=False, memory=False)
    evaluator = Evaluator(SPEC, SEED, label="vote")
    for batch in client.batches(
        spec=SPEC, seed=SEED, split="test", batch_size=5, stop=SAMPLES, skip=[(8, 12)]
    ):
        evaluator.update(batch, predictions("vote")[batch.indices.astype(int)])
    assert evaluator.samples == SAMPLES - 4
    assert evaluator.report(ladder=False, memory=False).evaluation_set.ranges == ((0, 8), (12, 24))
    evaluator.update(8, predictions("vote")[8:12])
    same(evaluator.report(ladder=False, memory=False), whole)


def test_other_batches_are_refused_by_name() -> None:
    client = MetaLMClient("inprocess:")
    evaluator = Evaluator(SPEC, SEED)
    values = predictions("vote")[:2]

    def batch(**others: Any) -> Batch:
        given: dict[str, Any] = {
            "spec": SPEC,
            "seed": SEED,
            "split": "test",
            "batch_size": 2,
            **others,
        }
        return client.batch(0, **given)

    for other, name in (
        ({"spec": replace(SPEC, e=0.2)}, "batch spec is "),
        ({"seed": 8}, "batch seed is 8; it must be 7"),
        ({"split": "train"}, "batch split is .*train.*; it must be test"),
    ):
        with pytest.raises(InvalidArgument, match=name):
            evaluator.update(batch(**other), values)
    changed = replace(batch(), digest=1)
    with pytest.raises(CorruptBatch, match="its digest is 0000000000000001"):
        evaluator.update(changed, values)
    evaluator.update(batch(), values)
    with pytest.raises(
        InvalidArgument, match="batch is 'sample 1'; it must be of samples not taken"
    ):
        evaluator.update(1, values)
    assert evaluator.samples == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.1])
def test_what_is_no_log_probability_is_refused_and_nothing_is_taken(value: float) -> None:
    evaluator = Evaluator(SPEC, SEED)
    values = predictions("vote")[:3].copy()
    values[2, 17] = value
    bound = r"at sample 22, position 17'; it must be finite and at most 0"
    with pytest.raises(InvalidArgument, match=bound) as caught:
        evaluator.update(20, values)
    assert caught.value.field == "log_probs"
    assert evaluator.samples == 0
    evaluator.update(20, np.full((3, SPEC.L), 1e-7))  # as rounding makes it
    assert evaluator.report(ladder=False, memory=False).overall.nll_nats == 0


@pytest.mark.parametrize("shape", [(4, 511), (4,), (4, 512, 17), (4, 512, 18, 1), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    evaluator = Evaluator(SPEC, SEED)
    with pytest.raises(InvalidArgument, match="values"):
        evaluator.update(0, np.zeros(shape))
    with pytest.raises(InvalidArgument, match="of type int64'; it must be floats"):
        evaluator.update(0, np.zeros((4, SPEC.L), np.int64))


@pytest.mark.parametrize(("dtype", "tolerance"), [("f2", 2e-3), ("f4", 1e-6), ("f8", 1e-12)])
def test_logits_are_normalised(
    dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_inputs, "_NUMBERS_AT_A_TIME", 7 * SPEC.vocabulary)
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (4, SPEC.L, SPEC.vocabulary)).astype(dtype)
    logits += np.array(1000 if dtype != "f2" else 0, dtype)  # of any scale
    logits[..., 0] = -np.inf  # a model may know that the mask is no target
    exact = logits.astype(np.float64)
    right = exact - np.logaddexp.reduce(exact, axis=-1, keepdims=True)
    _, y = MetaLMClient("inprocess:").batch(0, spec=SPEC, seed=SEED, split="test", batch_size=4)
    chosen = np.take_along_axis(right, y[..., None].astype(int), axis=-1)[..., 0]
    by_logits, by_chosen = Evaluator(SPEC, SEED), Evaluator(SPEC, SEED)
    by_logits.update(0, logits)
    by_chosen.update(0, chosen)
    found, expected = (
        one.report(ladder=False, memory=False).overall.nll_nats for one in (by_logits, by_chosen)
    )
    assert found == pytest.approx(expected, abs=max(tolerance, 1e-4 if dtype == "f4" else 0))


def test_tables_count_what_the_provenance_says() -> None:
    """Counted anew from the provenance, token by token; and the means and errors of a bin."""
    report = evaluated("last-copy").report(ladder=False, memory=False)
    longer = replace(SPEC, L=SPEC.L + 1)
    told = MetaLMClient("inprocess:").batch(
        0, spec=longer, seed=SEED, split="test", batch_size=SAMPLES, provenance=True
    )
    assert told.provenance is not None
    losses = -predictions("last-copy").astype(np.float64)
    exposures: Counter[int] = Counter()
    lags: Counter[tuple[int, int]] = Counter()
    sums = np.zeros(SAMPLES)
    counts = np.zeros(SAMPLES)
    for row in range(SAMPLES):
        last: dict[tuple[int, int], int] = {}
        for t in range(SPEC.L + 1):
            element = int(told.provenance.element[row, t])
            offset = int(told.provenance.offset[row, t])
            exposure = int(told.provenance.exposure[row, t])
            if t > 0:
                exposures[exposure] += 1
                if exposure == 2:
                    lags[2, t - last[element, offset]] += 1
                    sums[row] += losses[row, t - 1]
                    counts[row] += 1
            last[element, offset] = t
    table = report.tables["exposure"]
    single = {one["from"]: tokens for one, tokens in zip(table.bins, table.tokens, strict=True)}
    assert all(single.get(exposure, 0) == exposures[exposure] for exposure in range(16))
    assert sum(table.tokens) == SAMPLES * SPEC.L
    for one, tokens in zip(report.tables["lag"].bins, report.tables["lag"].tokens, strict=True):
        if one["exposure_from"] == 2:
            low, high = one["from"], one["to"] or 10**9
            assert low is not None
            assert tokens == sum(n for (_, lag), n in lags.items() if low <= lag < high)
    assert sum(report.tables["offset"].tokens) == SAMPLES * SPEC.L
    place = [one["from"] for one in table.bins].index(2)
    mean, se = (getattr(table.curves["model"], name)[place] for name in ("mean", "se"))
    ratio = sums.sum() / counts.sum()
    residuals = sums - ratio * counts
    error = np.sqrt(SAMPLES / (SAMPLES - 1) * (residuals**2).sum()) / counts.sum()
    assert (mean, se) == pytest.approx((ratio, error), abs=2e-6)
    position = report.tables["position"].curves["model"]
    assert position.mean == pytest.approx(losses.mean(0), abs=2e-6)
    assert position.se == pytest.approx(losses.std(0, ddof=1) / np.sqrt(SAMPLES), abs=2e-6)
    assert report.overall.se_nats == pytest.approx(losses.mean(1).std(ddof=1) / np.sqrt(SAMPLES))
    total = report.tables["cumulative"].curves["model"]
    assert total.mean[-1] == pytest.approx(losses.sum(1).mean(), abs=1e-5)
    assert total.se[-1] == pytest.approx(losses.sum(1).std(ddof=1) / np.sqrt(SAMPLES), abs=1e-5)


def test_a_single_sequence_has_no_errors() -> None:
    evaluator = Evaluator(SPEC, SEED)
    evaluator.update(3, predictions("vote")[:1])
    report = evaluator.report(ladder=False)
    assert (report.overall.se_nats, report.overall.ci95_nats) == (None, None)
    assert report.excess.over_genie.ci95 is None
    with pytest.raises(InvalidArgument, match="samples is 0; it must be at least 1"):
        Evaluator(SPEC, SEED).report()

"""The evaluator takes tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metalm import InvalidArgument, MetaLMClient, Spec
from metalm.eval import Evaluator, inputs

SPEC = Spec(V=16, n=4, l=6, e=0.1, L=128)
SEED = 3


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((6, SPEC.L, SPEC.vocabulary), generator=generator) * 3


@pytest.fixture(scope="module")
def targets() -> torch.Tensor:
    batch = MetaLMClient("inprocess:").batch(0, spec=SPEC, seed=SEED, split="test", batch_size=6)
    return torch.from_numpy(batch.y.astype(np.int64))


def nll(values: object) -> float:
    evaluator = Evaluator(SPEC, SEED)
    evaluator.update(0, values)
    return evaluator.report(ladder=False, memory=False).overall.nll_nats


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_logits_are_what_torch_makes_of_them(
    dtype: torch.dtype,
    logits: torch.Tensor,
    targets: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inputs, "_NUMBERS_AT_A_TIME", 50 * SPEC.vocabulary)
    given = logits.to(dtype)
    right = torch.nn.functional.cross_entropy(given.double().flatten(0, 1), targets.flatten())
    # As a model gives them: a part of a graph.
    assert nll(given.clone().requires_grad_()) == pytest.approx(right.item(), abs=2e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)]
)
def test_log_probabilities_are_taken_as_they_are(
    dtype: torch.dtype, tolerance: float, logits: torch.Tensor, targets: torch.Tensor
) -> None:
    log_probs = logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    assert nll(log_probs.to(dtype)) == pytest.approx(-log_probs.mean().item(), abs=tolerance)


def test_tensors_and_arrays_are_the_same(logits: torch.Tensor) -> None:
    assert nll(logits) == pytest.approx(nll(logits.numpy()), abs=1e-6)
    assert nll(logits.double()) == pytest.approx(nll(logits.double().numpy()), abs=1e-12)


def test_integers_and_nan_are_refused(logits: torch.Tensor) -> None:
    evaluator = Evaluator(SPEC, SEED)
    with pytest.raises(InvalidArgument, match=r"torch\.int64"):
        evaluator.update(0, torch.zeros((6, SPEC.L), dtype=torch.int64))
    broken = logits.clone()
    broken[4, 5, 6] = torch.nan
    with pytest.raises(InvalidArgument, match="nan at sample 4, position 5"):
        evaluator.update(0, broken)
    with pytest.raises(InvalidArgument, match="values is 'of shape"):
        evaluator.update(0, logits[:, :-1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_tensors_may_be_on_a_device(logits: torch.Tensor) -> None:
    assert nll(logits.cuda()) == pytest.approx(nll(logits), abs=1e-5)

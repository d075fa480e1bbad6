"""The reference models: causal, and the same in segments as in one piece."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import published
from metalm import MetaLMClient
from models import REFERENCE, Size, build
from training.recipe import RECIPES, Recipe
from training.trainer import Trainer

IDS, LENGTH = 10, 23


def model_of(name: str, segment: int = LENGTH) -> Any:
    """In double precision, with weights large enough for every part to matter."""
    torch.manual_seed(3)
    model = build(name, IDS, Size(layers=3, width=24, heads=2, segment=segment)).double()
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.4)
    return model


def tokens() -> torch.Tensor:
    return torch.randint(0, IDS, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def in_segments(model: Any, x: torch.Tensor, length: int) -> torch.Tensor:
    state, found = None, []
    for part in x.split(length, 1):
        logits, state = model(part, state)
        found.append(logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize("name", REFERENCE)
def test_nothing_of_the_future_is_seen(name: str) -> None:
    model, x = model_of(name, segment=5), tokens()
    before = in_segments(model, x, 5)
    for position in (1, 4, 5, 12, LENGTH - 1):
        other = x.clone()
        other[:, position] = (x[:, position] + 1) % IDS
        after = in_segments(model, other, 5)
        assert torch.equal(after[:, :position], before[:, :position])
        assert (after[:, position] - before[:, position]).abs().min() > 0


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("length", [1, 5, 22])
def test_segments_with_a_state_that_holds_all_are_the_whole(name: str, length: int) -> None:
    model, x = model_of(name), tokens()
    whole, _ = model(x)
    assert whole.shape == (2, LENGTH, IDS)
    torch.testing.assert_close(in_segments(model, x, length), whole, rtol=0, atol=1e-12)


def test_a_transformer_xl_forgets_what_no_layer_can_reach() -> None:
    """Three layers with a memory of two tokens: in segments of one, six tokens back and no more."""
    model, x = model_of("txl", segment=2), tokens()
    before = in_segments(model, x, 1)
    other = x.clone()
    other[:, 4] = (x[:, 4] + 1) % IDS
    moved = (in_segments(model, other, 1) - before).abs().amax((0, 2)) > 0
    assert moved.tolist() == [4 <= position <= 10 for position in range(LENGTH)]


def test_relative_attention_is_the_formula_of_the_paper() -> None:
    """Term by term, one pair of positions after the other."""
    from models.transformer_xl import RelativeAttention, encodings

    torch.manual_seed(2)
    attention = RelativeAttention(8, 2).double()
    for weights in attention.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    context, count, past = torch.randn(1, 7, 8).double(), 4, 3
    distances = encodings(7, 8, torch.device("cpu")).double()
    keys, values = attention.key_value(context[0]).chunk(2, -1)
    expected = torch.zeros(count, 8).double()
    for head, part in enumerate((slice(0, 4), slice(4, 8))):
        u, v = attention.content_bias[head, 0], attention.position_bias[head, 0]
        for i in range(count):
            query = attention.query(context[0, past + i])[part]
            scores = []
            for j in range(past + i + 1):
                far = attention.position_key(distances[6 - (past + i - j)])[part]
                near = keys[j, part]
                scores.append(query @ near + query @ far + u @ near + v @ far)
            weights = (torch.stack(scores) / 4**0.5).softmax(0)
            expected[i, part] = weights @ values[: past + i + 1, part]
    found = attention(context, count, distances)[0]
    torch.testing.assert_close(found, attention.output(expected))


@pytest.mark.parametrize("name", REFERENCE)
def test_no_gradient_goes_back_beyond_the_segment(name: str) -> None:
    model, x = model_of(name), tokens()
    _, state = model(x[:, :9])
    model(x[:, 9:], state)[0].sum().backward()
    unused = set(range(IDS)) - set(x[:, 9:].unique().tolist())
    used = model.embedding.weight.grad.abs().sum(1) > 0
    assert not any(used[list(unused)])
    assert all(used[x[:, 9:].unique()])


@pytest.mark.parametrize("name", ["txl", "transformer"])
@pytest.mark.parametrize("width", [32, 512])
def test_first_weights_hand_on_what_they_are_given_at_any_width(name: str, width: int) -> None:
    torch.manual_seed(5)
    model = build(name, IDS, Size(layers=2, width=width, heads=2, segment=LENGTH))
    widths: dict[str, float] = {}

    def heard(part: str) -> Any:
        return lambda _module, _given, found: widths.update({part: found.std().item()})

    for part, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not part.endswith(("output", "feed_forward.2")):
            module.register_forward_hook(heard(part))
    model(tokens())
    assert len(widths) > 4
    assert all(0.5 < found < 1.5 for found in widths.values()), widths


@pytest.mark.parametrize(
    ("name", "millions"), [("lstm", 8.5), ("txl", 20.6), ("transformer", 19.0)]
)
def test_the_full_size_learns_from_a_batch(name: str, millions: float) -> None:
    recipe = RECIPES[name]
    trainer = Trainer(recipe, ids=66, device=torch.device("cpu"))
    assert sum(part.numel() for part in trainer.model.parameters()) == pytest.approx(
        millions * 1e6, rel=0.01
    )
    with MetaLMClient() as client:
        pair = client.batch(0, seed=7, V=64, n=10, l=32, L=160, batch_size=1)
    x, y = (torch.as_tensor(part).long() for part in pair)
    losses = [trainer.train_on(x, y).item() for _ in range(3)]
    assert losses[2] < losses[0] < 5
    assert trainer.losses_on(x, y).shape == (1, 160)


@pytest.mark.parametrize("name", REFERENCE)
def test_a_small_one_learns_a_language_and_reduced_precision_is_near(name: str) -> None:
    """All samples speak language 0, without errors: far below what an unknown one costs at first."""
    size = Size(layers=1, width=32, heads=2, segment=16)
    recipe = Recipe(model=name, size=size, steps=60, batch_size=8, learning_rate=0.01, warmup=5)
    spec: dict[str, Any] = {"V": 4, "n": 2, "l": 4, "e": 0, "L": 48, "language": 0}
    trainer = Trainer(recipe, ids=6, device=torch.device("cpu"))
    with MetaLMClient() as client:
        for pair in client.batches(seed=7, batch_size=8, count=60, **spec):
            x, y = (torch.as_tensor(part).long() for part in pair)
            loss = trainer.train_on(x, y).item()
    assert loss < 0.7
    found = trainer.losses_on(x, y)
    reduced = Trainer(replace(recipe, precision="bfloat16"), ids=6, device=torch.device("cpu"))
    reduced.load_state_dict(trainer.state_dict())
    assert found.dtype == reduced.losses_on(x, y).dtype == torch.float32
    assert 0 < (reduced.losses_on(x, y) - found).abs().mean() < 0.02


def test_the_plan_counts_the_products_of_the_models() -> None:
    size = Size(layers=2, width=64, heads=4, segment=32)
    recurrent, attending = build("lstm", IDS, size), build("txl", IDS, size)
    products = sum(
        part.numel()
        for name, part in recurrent.named_parameters()
        if part.dim() == 2 and "embedding" not in name
    )
    assert published.flops_per_token("lstm", size, IDS) == 6 * products

    x = torch.zeros(32, 32, dtype=torch.int64)
    _, state = attending(x)
    with FlopCounterMode(display=False) as counter:
        attending(x, state)[0].sum().backward()
    # The encodings of distances, which the batch shares, are left out of the plan, and torch
    # computes no gradient of the memory.
    assert counter.get_total_flops() / x.numel() == pytest.approx(
        published.flops_per_token("txl", size, IDS), rel=0.1
    )

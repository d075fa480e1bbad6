"""The reference models at their full size, on the published settings: what that costs, and its
commands. To run them all, one after another:

    python client/examples/published.py --url http://localhost:8000 | sh
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence

from metalm.eval import preset
from models import Size
from training.recipe import RECIPES

PRESETS = ("5x32-metagym", "10x32-metagym", "10x64-metagym")
"""As MetaGym's code draws them: only with these may its curves be compared."""

MODELS = ("txl", "lstm")

PLANNED_TOKENS_PER_S = {"txl": 0.5e6, "lstm": 1.2e6}
"""Of one GPU like an H100; an estimate, not a measurement.

Transformer-XL: an update of 64 x 128 tokens is 1.2 TFLOP, 5 ms at a quarter of the GPU's peak in
bfloat16; the memory traffic of the scores and some 600 launches of kernels take as long again, or
longer. LSTM: an update of 256 x 128 tokens is 1.7 TFLOP, 11 ms at a third of the peak in TF32, and
128 steps of 4 layers, which wait for one another, some 30 microseconds each forth and back.
"""


def flops_per_token(model: str, size: Size, ids: int) -> float:
    """Floating point operations for a token of training, of the products alone: forth, and twice
    as many back. Raises KeyError for a model that is none of `MODELS`."""
    layers, width, segment = size.layers, size.width, size.segment or 0
    products = {
        # Four gates, each from the input and from the output before.
        "lstm": layers * 8 * width**2,
        # Per token: query, output and the feed-forward network; key and value, of the memory too;
        # scores by content and by distance, and the sum of values, over segment and memory.
        "txl": layers * (2 + 8 + 2 * 2) * width**2 + layers * 3 * 2 * segment * width,
    }
    return 3 * 2 * (products[model] + width * ids)


def commands(url: str, output: str) -> Iterator[str]:
    """Lines of a shell script: each run below its plan."""
    yield "set -eu"
    for name in PRESETS:
        spec = preset(name).evaluation_set.spec
        for model in MODELS:
            recipe = RECIPES[model]
            tokens = recipe.steps * recipe.batch_size * spec.L
            flops = tokens * flops_per_token(model, recipe.size, spec.vocabulary)
            minutes = tokens / PLANNED_TOKENS_PER_S[model] / 60
            yield (
                f"# {name}, {model}: {recipe.steps} steps, {tokens / 1e9:.2f} billion tokens, "
                f"{flops / 1e15:.0f} PFLOP, {minutes:.0f} minutes planned"
            )
            run = f"{output}/{name}-{model}"
            train = ["python", "client/examples/train.py", "--url", url, "--preset", name]
            yield shlex.join([*train, "--model", model, "--output", run])
            yield shlex.join(
                ["metalm", "evaluate", f"{run}/results.npz", "--output", f"{run}/report"]
            )
        reports = [f"{output}/{name}-{model}/report.json" for model in MODELS]
        yield shlex.join(["metalm", "compare", *reports, "--plot", f"{output}/{name}.png"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://localhost:8000", help="of a service [%(default)s]")
    parser.add_argument("--output", default="runs", metavar="DIR", help="[%(default)s]")
    given = parser.parse_args(arguments)
    print("\n".join(commands(given.url, given.output)))


if __name__ == "__main__":
    main()

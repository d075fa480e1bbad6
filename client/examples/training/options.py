"""The command line of the trainer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metalm import Spec, flags
from metalm.eval.presets import preset
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import Field
from metalm_proto.spec import BATCH_SIZE, SEED, SPEC_FIELDS
from training.recipe import RECIPES, Recipe

_SIZE = (
    Field(name="layers", lower=1, upper=2**10, doc="of the model"),
    Field(name="width", lower=2, upper=2**16, doc="d_model"),
    Field(name="heads", lower=1, upper=2**10, doc="of attention; an LSTM has none"),
    Field(
        name="segment",
        lower=1,
        upper=2**34,
        doc="tokens through which the gradient goes, and which a Transformer-XL remembers",
    ),
)
_RECIPE = (
    Field(name="steps", lower=1, upper=2**40, doc="batches to train on"),
    Field(
        name="learning_rate",
        kind=float,
        lower=0,
        open_lower=True,
        upper=1,
        doc="the highest: after the warm-up it falls to a tenth, half a cosine",
    ),
    Field(name="warmup", lower=0, upper=2**40, doc="steps in which the learning rate rises"),
    Field(name="clip", kind=float, lower=0, open_lower=True, upper=1e9, doc="norm of a gradient"),
    Field(name="weight_decay", kind=float, lower=0, upper=1, doc="of AdamW"),
    Field(name="model_seed", lower=0, upper=2**63 - 1, doc="of the first weights"),
)
_BATCH_SIZE = replace(BATCH_SIZE, default=None)
_REPORT_EVERY = Field(name="report_every", default=10, lower=1, upper=2**40, doc="steps")
_EVALUATE_EVERY = Field(name="evaluate_every", default=500, lower=1, upper=2**40, doc="steps")
_CHECKPOINT_EVERY = Field(name="checkpoint_every", default=500, lower=1, upper=2**40, doc="steps")
_VALIDATION_SAMPLES = Field(
    name="validation_samples", default=64, lower=1, upper=2**32, doc="for the curve as it goes"
)
_SAMPLES = Field(
    name="samples", default=256, lower=1, upper=2**32, doc="of the test split, for results.npz"
)
_THREADS = Field(name="threads", lower=1, upper=2**10, doc="of torch on a CPU [all cores]")
_RUN = (_REPORT_EVERY, _EVALUATE_EVERY, _CHECKPOINT_EVERY, _VALIDATION_SAMPLES)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A run: what is trained, on which stream (`seed` None: one is drawn), where, by which samples
    of the stream's test split it is judged, and after how many steps each it reports, evaluates
    and writes a checkpoint."""

    recipe: Recipe
    spec: Spec
    seed: int | None
    test: range
    device: torch.device
    output: Path
    report_every: int
    evaluate_every: int
    checkpoint_every: int
    validation_samples: int


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--output", type=Path, required=True, metavar="DIR", help="of this run")
    made.add_argument("--model", choices=RECIPES, required=True)
    flags.add_preset(made)
    made.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the products [bfloat16 on a GPU, else float32]",
    )
    made.add_argument("--device", help="[cuda, where there is one, else cpu]")
    for field in (*_RECIPE, _BATCH_SIZE, *_SIZE, *_RUN, _SAMPLES, _THREADS, *SPEC_FIELDS, SEED):
        flags.add(made, field)
    flags.add_url(made)
    return made


def parsed(given: argparse.Namespace) -> Options:
    """What the flags say; what they leave open is as `RECIPES` has it. Raises InvalidArgument."""
    device = _device(given.device)
    if (threads := flags.parsed(_THREADS, given)) is not None:
        torch.set_num_threads(threads)
    first = 0 if given.preset is None else preset(given.preset).evaluation_set.ranges[0][0]
    return Options(
        recipe=_recipe(given, device),
        spec=flags.spec(given),
        seed=flags.parsed(SEED, given),
        test=range(first, first + flags.parsed(_SAMPLES, given)),
        device=device,
        output=given.output,
        **{field.name: flags.parsed(field, given) for field in _RUN},
    )


def _recipe(given: argparse.Namespace, device: torch.device) -> Recipe:
    recipe = RECIPES[given.model]
    size = replace(recipe.size, **_found(_SIZE, given))
    if given.model != "lstm" and size.width % (2 * size.heads):
        bound = f"a multiple of {2 * size.heads}, as there are {size.heads} heads"
        raise InvalidArgument("width", size.width, bound)
    precision = given.precision or ("bfloat16" if device.type == "cuda" else "float32")
    others = _found((*_RECIPE, _BATCH_SIZE), given)
    return replace(recipe, size=size, precision=precision, **others)


def _found(fields: Sequence[Field], given: argparse.Namespace) -> dict[str, Any]:
    """The values of the flags that are there."""
    return {
        field.name: field.parse(text)
        for field in fields
        if (text := getattr(given, field.name)) is not None
    }


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise InvalidArgument("device", name, "one that torch knows, such as cpu or cuda") from None

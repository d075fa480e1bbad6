"""The floors of a range of samples, summed up."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import FIRST, GENERATOR, SIZE, Spec, Split
from metalm_service.core import floors
from metalm_service.core.floors import closed
from metalm_service.core.floors.predictors import CERTAIN
from metalm_service.core.floors.tally import Estimates, Tally

SCHEMA = "metalm-floors-1"

_TOKENS_AT_A_TIME = 2**18
_DIGITS = 6

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Summary:
    """Losses of reference predictors on samples [first, first + samples) of a stream.

    `tally`: their means. `sequences`: for each predictor float64 [2, samples], the mean loss of
    each sequence, over all steps and over those from L // 2 on. `exact`: the number of sequences
    on which the Bayes floor is known exactly, those of `exact_rows`; None unless genie and
    greedy are both among the predictors. All in nats a token.
    """

    spec: Spec
    seed: int
    split: Split
    first: int
    tally: Tally
    sequences: dict[str, NDArray[np.float64]]
    exact: int | None

    @property
    def samples(self) -> int:
        return self.tally.samples

    @property
    def predictors(self) -> tuple[str, ...]:
        return self.tally.names

    def estimates(self, predictor: str, part: str) -> Estimates:
        """The means of a predictor over the bins of a part; see `layout.Layout`."""
        return self.tally.estimates(predictor, part)

    def as_dict(self, *, steps: bool = True) -> dict[str, Any]:
        """As plain JSON types, rounded to 1e-6 nats; without `steps` no curves by position."""
        parts = [part for part in self.tally.layout.parts if steps or part != "position"]
        return {
            "schema": SCHEMA,
            "generator": GENERATOR,
            "spec": self.spec.as_dict(),
            "seed": self.seed,
            "split": str(self.split),
            "first": self.first,
            "samples": self.samples,
            "unit": "nats per predicted token",
            "exact_samples": self.exact,
            "closed_forms": closed_forms(self.spec),
            "bins": {part: self.tally.layout.bins(part) for part in parts if part != "position"},
            "tokens": {
                part: self.estimates(self.predictors[0], part).tokens.tolist()
                for part in parts
                if part != "position"
            },
            "predictors": {
                name: {part: curve_of(self.estimates(name, part)) for part in parts}
                for name in self.predictors
            },
        }


def closed_forms(spec: Spec) -> dict[str, float]:
    """What is known of a spec without any sample: losses in nats a token, the cost of learning a
    language in nats, and the tokens after which one can be learnt."""
    return {
        "known_nats": closed.known_language(spec),
        "content_free_nats": closed.content_free(spec),
        "learning_cost_nats": closed.learning_cost(spec),
        "horizon_tokens": closed.horizon(spec),
    }


def curve_of(estimates: Estimates) -> dict[str, list[float | None]]:
    """`mean` and `se` as lists, rounded to 1e-6, and None for what there is not."""
    return {"mean": rounded(estimates.mean), "se": rounded(estimates.se)}


def rounded(values: NDArray[np.float64]) -> list[float | None]:
    """Rounded to 1e-6; None for NaN."""
    return [None if math.isnan(value) else value for value in np.round(values, _DIGITS).tolist()]


def summarise(
    spec: Spec,
    seed: int,
    split: Split,
    first: int,
    samples: int,
    predictors: Sequence[str] = floors.LADDER,
    *,
    threads: int | None = None,
    proceed: Callable[[], None] = lambda: None,
) -> Summary:
    """The floors of the samples [first, first + samples), by as many threads as there are cores
    unless told otherwise; the result does not depend on how many.

    `proceed` is called every few hundred thousand tokens; what it raises ends the work. Raises
    InvalidArgument for a value out of bounds and for a predictor that there is not, and
    ModuleNotFoundError without numba.
    """
    names = _checked(predictors)
    tally = Tally(spec, names)
    sequences: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    exact = 0 if {"genie", "greedy"} <= set(names) else None

    def part(begin: int, count: int) -> tuple[Tally, dict[str, NDArray[np.float64]], int]:
        doubts = np.zeros(count)
        losses = floors.losses(spec, seed, split, begin, count, names, doubts=doubts)
        found = Tally(spec, names)
        found.add(losses, floors.targets(spec, seed, split, begin, count))
        means = {name: sequence_means(losses[name]) for name in names}
        return found, means, 0 if exact is None else int(exact_rows(losses, doubts).sum())

    for found, means, agreeing in _in_order(part, spec, first, samples, threads):
        proceed()
        tally.merge(found)
        for name in names:
            sequences[name].append(means[name])
        if exact is not None:
            exact += agreeing
    return Summary(
        spec=spec,
        seed=seed,
        split=split,
        first=first,
        tally=tally,
        sequences={name: np.concatenate(parts, axis=1) for name, parts in sequences.items()},
        exact=exact,
    )


def sequence_means(losses: NDArray[Any]) -> NDArray[np.float64]:
    """Of losses [B, L] the mean of each sequence, over all steps and over those from L // 2 on:
    float64 [2, B]."""
    last_half = losses[:, losses.shape[1] // 2 :]
    return np.stack([losses.mean(1, dtype=np.float64), last_half.mean(1, dtype=np.float64)])


def exact_rows(
    losses: Mapping[str, NDArray[Any]], doubts: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """On which sequences genie and greedy agree bit for bit and greedy was certain: there they are
    the Bayes learner itself. `doubts`: see `losses`.

    That they agree is not enough: greedy may have guessed right where the Bayes learner, who does
    not guess, is between two elements.
    """
    agree: NDArray[np.bool_] = (losses["genie"] == losses["greedy"]).all(1)
    return agree & (doubts <= CERTAIN)


def sequence_floors(
    spec: Spec,
    seed: int,
    split: Split,
    first: int,
    samples: int,
    predictors: Sequence[str],
    *,
    threads: int | None = None,
) -> dict[str, NDArray[np.float64]]:
    """`Summary.sequences` alone, which takes little memory. Raises what `summarise` does."""
    names = _checked(predictors)

    def part(begin: int, count: int) -> dict[str, NDArray[np.float64]]:
        losses = floors.losses(spec, seed, split, begin, count, names)
        return {name: sequence_means(losses[name]) for name in names}

    parts = list(_in_order(part, spec, first, samples, threads))
    return {name: np.concatenate([means[name] for means in parts], axis=1) for name in names}


def _checked(predictors: Sequence[str]) -> tuple[str, ...]:
    if not predictors:
        raise InvalidArgument("predictors", predictors, "at least one")
    return floors.checked(predictors)


def _in_order(
    part: Callable[[int, int], Part], spec: Spec, first: int, samples: int, threads: int | None
) -> Iterator[Part]:
    """part(begin, count) of piece after piece of the samples, in their order, whatever the
    threads; only a few lie ready."""
    rows = max(1, _TOKENS_AT_A_TIME // spec.L)
    stop = FIRST.check(first) + SIZE.check(samples)
    begins = range(first, stop, rows)
    workers = min(threads or os.cpu_count() or 1, len(begins))
    waiting: deque[Future[Part]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for begin in begins:
                waiting.append(pool.submit(part, begin, min(rows, stop - begin)))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

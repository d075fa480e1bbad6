"""How well a model predicts, token by token, beside the best that can be done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metalm.eval.evaluation_set import EvaluationSet
from metalm.eval.inputs import Losses, losses_of, samples_in
from metalm.eval.report import Report
from metalm_proto.batch import Batch, digest_of
from metalm_proto.errors import CorruptBatch, InvalidArgument
from metalm_proto.fields import U64
from metalm_proto.spec import GENERATOR, INDEX, SEED, SPLIT, Spec, Split

MODEL, OVER_GREEDY, OVER_GENIE = "model", "over-greedy", "over-genie"
QUANTITIES = (MODEL, "greedy", "genie", "known", OVER_GREEDY, OVER_GENIE)
"""What is summed up of each token; the excess is the difference on this very token."""

_FLOORS = ("greedy", "genie", "known")
_TOKENS_AT_A_TIME = 2**18
_STATE = "metalm-evaluator-1"


class Evaluator:
    """Takes a model's predictions of samples of one stream, batch after batch in any order, and
    reports how good they are, and how far from the floors on the same samples.

    `split` is "test" unless told otherwise. `label`: what tables and plots call the model.

    It keeps sums and not losses: about 20 numbers a step, whatever the number of samples, and two
    of each sample, so that models can be compared sample by sample. Several ranks take each a part
    of the samples and `merge`; in any order that gives the same report, up to the rounding of sums
    in double precision. Needs numba (`pip install '.[core]'`), and no framework. Not thread-safe.

    Raises InvalidArgument for a value out of bounds.

    >>> import numpy as np
    >>> from metalm import Spec
    >>> from metalm.eval import Evaluator
    >>> evaluator = Evaluator(Spec(V=64, n=5, l=32, L=256), seed=7)
    >>> for first in (0, 8):
    ...     evaluator.update(first, np.full((8, 256), -np.log(65)))
    >>> report = evaluator.report()
    >>> report.samples, round(report.overall.nll_nats, 3), round(report.overall.ppl, 1)
    (16, 4.174, 65.0)
    """

    def __init__(
        self, spec: Spec, seed: int, split: Split | str = Split.TEST, *, label: str | None = None
    ) -> None:
        from metalm_service.core.floors.tally import Tally

        if not isinstance(spec, Spec):
            raise TypeError(f"spec is a {type(spec).__name__}; it must be a Spec")
        self.spec, self.seed, self.split = spec, SEED.check(seed), SPLIT.check(split)
        if not isinstance(label, str | None):
            raise InvalidArgument("label", label, "text")
        self.label = label
        self._tally = Tally(spec, QUANTITIES)
        self._exact = 0
        self._sequences: dict[int, tuple[float, float]] = {}

    @property
    def samples(self) -> int:
        """Samples that were taken so far."""
        return len(self._sequences)

    def update(self, batch: Batch | int, values: Any) -> None:
        """Takes the predictions of a batch, or of the samples from the index `batch` on.

        `values`: log-probabilities of the targets y in nats [B, L], or logits [B, L, V + 2];
        numpy, torch on any device, or any other array with a shape that numpy can read; float16,
        bfloat16, float32, float64. Logits are normalised here, over all V + 2 ids.

        Raises InvalidArgument for another spec, seed, split or shape, for a sample that was taken
        before, and for a log-probability that is NaN, infinite or above 0; CorruptBatch for a batch
        whose digest is another than that of its samples. Then nothing of it is taken.
        """
        runs = list(self._runs(batch, samples_in(values)))
        for first, size in runs:
            self._check_new(first, size)
        taken = []
        row = 0
        for first, size in runs:
            targets = self._targets(first, size, batch if len(runs) == 1 else None)
            taken.append((first, losses_of(values[row : row + size], targets, self.spec, first)))
            row += size
        for first, losses in taken:
            self._take(first, losses)

    def merge(self, other: Evaluator) -> None:
        """Takes what an evaluator of other samples of this stream has. Raises InvalidArgument if
        it is of another stream or model, or has samples that this one has, and takes nothing."""
        for name in ("spec", "seed", "split", "label"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise InvalidArgument(name, theirs, f"{mine}, as here")
        if twice := self._sequences.keys() & other._sequences.keys():
            raise InvalidArgument("samples", min(twice), "samples that were not taken before")
        self._tally.merge(other._tally)
        self._exact += other._exact
        self._sequences.update(other._sequences)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that it knows, as arrays: for `np.savez`, `pickle`, or a rank that gathers."""
        head = {
            "state": _STATE,
            "generator": GENERATOR,
            "spec": self.spec.as_dict(),
            "seed": self.seed,
            "split": str(self.split),
            "label": self.label,
            "exact": self._exact,
        }
        return {
            "head": np.array(json.dumps(head)),
            "indices": np.array(list(self._sequences), np.uint64),
            "sequences": np.array(list(self._sequences.values()), np.float64).reshape(-1, 2),
            **self._tally.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """An evaluator that goes on where another's `state()` was. Raises InvalidArgument for what
        is none."""
        from metalm_service.core.floors.tally import Tally

        try:
            head = json.loads(str(state["head"]))
            if head["state"] != _STATE:
                raise InvalidArgument("state", head["state"], _STATE)
            evaluator = cls(Spec(**head["spec"]), head["seed"], head["split"], label=head["label"])
            evaluator._tally = Tally.from_state(evaluator.spec, QUANTITIES, state)
            evaluator._exact = int(head["exact"])
            pairs = zip(state["indices"].tolist(), state["sequences"].tolist(), strict=True)
            evaluator._sequences = {index: (mean, last) for index, (mean, last) in pairs}
            if evaluator.samples != evaluator._tally.samples:
                raise ValueError(f"{evaluator.samples} indices of {state['samples']} samples")
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument("state", str(error), "what Evaluator.state() gave") from error
        return evaluator

    def report(self, *, ladder: bool = True, memory: bool = True) -> Report:
        """What was found so far. The ladder of reference predictors and the effective memory are
        computed now, on the same samples, for they need the floors of many windows: some seconds
        for a million tokens, less for the same samples again; without them, none.

        Raises InvalidArgument where there is no sample.
        """
        from metalm.eval.reporting import make_report

        if not self._sequences:
            raise InvalidArgument("samples", 0, "at least 1")
        order = sorted(self._sequences)
        return make_report(
            self._tally,
            EvaluationSet(spec=self.spec, seed=self.seed, split=self.split, ranges=_ranges(order)),
            sequences=np.array([self._sequences[index] for index in order]).T,
            exact=self._exact,
            label=self.label,
            ladder=ladder,
            memory=memory,
        )

    def _runs(self, batch: Batch | int, size: int) -> Iterator[tuple[int, int]]:
        """(first, size) of the consecutive samples of a batch."""
        if not isinstance(batch, Batch):
            first = INDEX.check(batch)
            if not 0 < size <= U64 - first:
                raise InvalidArgument("values", f"of {size} samples", f"of 1 to {U64 - first}")
            yield first, size
            return
        for name in ("spec", "seed", "split"):
            mine, theirs = getattr(self, name), getattr(batch, name)
            if mine != theirs:
                raise InvalidArgument(f"batch {name}", theirs, f"{mine}, as is evaluated")
        if size != batch.size:
            raise InvalidArgument("values", f"of {size} samples", f"of {batch.size}, as the batch")
        for start, stop in _ranges(batch.indices.tolist()):
            yield start, stop - start

    def _check_new(self, first: int, size: int) -> None:
        twice = [index for index in range(first, first + size) if index in self._sequences]
        if twice:
            raise InvalidArgument("batch", f"sample {twice[0]}", "of samples not taken before")

    def _targets(self, first: int, size: int, batch: Batch | int | None) -> NDArray[Any]:
        """y of the samples, [B, L]; where a whole batch is given, its digest must be theirs."""
        from metalm_service.core import engine

        tokens = np.empty((2, size, self.spec.L), self.spec.dtype)
        engine.generate(self.spec, self.seed, self.split, first, tokens)
        if isinstance(batch, Batch) and batch.digest != (right := digest_of(*tokens)):
            raise CorruptBatch(
                f"batch at sample {first}: its digest is {batch.digest:016x}, "
                f"that of these samples is {right:016x}"
            )
        targets: NDArray[Any] = tokens[1]
        return targets

    def _take(self, first: int, losses: Losses) -> None:
        from metalm_service.core import floors
        from metalm_service.core.floors.summary import exact_rows, sequence_means

        rows = max(1, _TOKENS_AT_A_TIME // self.spec.L)
        for row in range(0, len(losses), rows):
            model = losses[row : row + rows].astype(np.float64)
            place = (self.spec, self.seed, self.split, first + row, len(model))
            doubts = np.zeros(len(model))
            found = floors.losses(*place, _FLOORS, doubts=doubts)
            quantities: dict[str, NDArray[Any]] = {
                MODEL: model,
                **found,
                OVER_GREEDY: model - found["greedy"],
                OVER_GENIE: model - found["genie"],
            }
            self._tally.add(quantities, floors.targets(*place))
            self._exact += int(exact_rows(found, doubts).sum())
            indices = range(first + row, first + row + len(model))
            means = sequence_means(model).T.tolist()
            self._sequences.update(
                (index, (mean, last)) for index, (mean, last) in zip(indices, means, strict=True)
            )


def _ranges(indices: list[int]) -> tuple[tuple[int, int], ...]:
    """Ascending indices as (start, stop) of consecutive ones."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return tuple(found)

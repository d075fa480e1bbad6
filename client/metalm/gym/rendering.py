"""An episode as text for a terminal."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from metalm.gym.scoring import Action
from metalm_proto.batch import KEPT, MASKED, REPLACED, Batch

_WIDTH = 80
_MARGIN = 6
_BLOCKS = 3
"""Of up to six lines each: with heading and legend they fit on a terminal of 24 lines."""


class Transcript:
    """What was heard and said in an episode; its text shows the last of it.

    A block for each repetition of an element, a column for each position, and marks for what
    happened: nothing is told by colour, so that a pipe or a log loses nothing.
    """

    def __init__(self, sample: Batch, kind: Action) -> None:
        assert sample.provenance is not None
        self._spec = sample.spec
        self._sample = sample
        self._provenance = sample.provenance
        self._kind = kind
        self._said: list[int] = []
        self._rewards: list[float] = []
        self._right = 0
        digits = len(str(self._spec.separator_id))
        # A token with its mark and a space; or a loss, which is 87.3 at most.
        self._cell = digits + 2 if kind is Action.TOKEN else max(digits + 2, 5)

    def add(self, token: int, reward: float) -> None:
        """What was said next: the token that it was most for, and what it earned."""
        self._right += token == int(self._sample.y[0, len(self._said)])
        self._said.append(token)
        self._rewards.append(reward)

    def __str__(self) -> str:
        lines = self._heading()
        for begin, end in self._blocks():
            lines += self._block(begin, end)
        return "\n".join([*lines, "", "| separator   _ masked   ~ replaced   = said and right"])

    def _heading(self) -> list[str]:
        spec, sample, count = self._spec, self._sample, len(self._said)
        result = f"{count} of {spec.L} tokens predicted, {self._right} right"
        if self._kind is Action.DISTRIBUTION and count:
            result += f", mean loss {-sum(self._rewards) / count:.2f} nats"
        return [
            f"MetaLM(V={spec.V}, n={spec.n}, l={spec.l:g}, e={spec.e:g}, L={spec.L}), "
            f"seed {sample.seed}, {sample.split}, sample {sample.first}",
            result,
        ]

    def _blocks(self) -> list[tuple[int, int]]:
        """The last ranges of positions that begin with an element or fill a line."""
        stop = len(self._said) + 1
        columns = max(1, (_WIDTH - _MARGIN) // self._cell)
        begins = np.flatnonzero(self._provenance.offset[0, :stop] == 0)[-_BLOCKS:]
        bounds = [*begins.tolist(), stop]
        ranges = [
            (begin, min(begin + columns, after))
            for first, after in pairwise(bounds)
            for begin in range(first, after, columns)
        ]
        return ranges[-_BLOCKS:]

    def _block(self, begin: int, end: int) -> list[str]:
        # The last target has no token of x, and is shown where it would be.
        at = min(begin, self._spec.L - 1)
        element, offset, exposure = (
            int(array[0, at])
            for array in (
                self._provenance.element,
                self._provenance.offset,
                self._provenance.exposure,
            )
        )
        rows = {
            "heard": [self._heard(t) for t in range(begin, end)],
            "clean": [self._clean(t) for t in range(begin, end)],
            "said": [self._answer(t) for t in range(begin, end)],
        }
        if self._kind is Action.DISTRIBUTION:
            rows["loss"] = [f"{-self._rewards[t - 1]:.1f}" if t else "" for t in range(begin, end)]
        lines = [
            "",
            f"element {element} from offset {offset}, exposure {exposure}",
        ]
        for name, cells in rows.items():
            if any(cells):
                line = f"{name:<{_MARGIN}}" + "".join(f"{cell:>{self._cell}}" for cell in cells)
                lines.append(line.rstrip())
        return lines

    def _heard(self, t: int) -> str:
        if t == self._spec.L:
            return ""
        corruption = self._provenance.corruption[0, t]
        if corruption == MASKED:
            return "_"
        return ("~" if corruption == REPLACED else "") + self._token(int(self._sample.x[0, t]))

    def _clean(self, t: int) -> str:
        """The token as it was, where it was not heard so."""
        if t < self._spec.L and self._provenance.corruption[0, t] == KEPT:
            return ""
        if t > 0:
            return self._token(int(self._sample.y[0, t - 1]))
        language, element = self._provenance.languages[0], self._provenance.element[0, 0]
        return self._token(int(language.tokens[language.lengths[:element].sum()]))

    def _answer(self, t: int) -> str:
        """What was said to be at t, when t - 1 was heard."""
        if t == 0:
            return ""
        said = self._said[t - 1]
        return ("=" if said == self._sample.y[0, t - 1] else "") + self._token(said)

    def _token(self, token: int) -> str:
        return "|" if token == self._spec.separator_id else str(token)

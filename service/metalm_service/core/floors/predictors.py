"""The predictors by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metalm_proto.errors import InvalidArgument

UNIFORM, CONTENT_FREE, SUFFIX = "uniform", "content-free", "suffix"
LAST_COPY, VOTE = "last-copy", "vote"
GENIE, GREEDY, KNOWN = "genie", "greedy", "known"

BRACKET = (GENIE, GREEDY)
"""Below and above the Bayes learner that knows the distribution but not the language."""

LADDER = (
    UNIFORM,
    CONTENT_FREE,
    SUFFIX,
    LAST_COPY,
    VOTE,
    "bayes-128",
    "bayes-256",
    "bayes-1024",
    GREEDY,
    GENIE,
    KNOWN,
)
"""What is plotted under a model: more information, or better use of it, from left to right."""

CLEARLY = 1 + 1e-9
"""So much more probable than the ones before it must a candidate be for greedy to take it: rounding
decides nothing."""

SURE, DOUBT = 1e-3, 1e-20
"""Where greedy knows as many elements as there can be, a new one shows that it took one for two
before. So it expects one with the weight of its wrong splits so far, on average over its posterior
(a known element has weight 1); if that is below SURE, with weight DOUBT, which changes no digit
where all was right. Measured at (V, n, l, e) = (16, 20, 8, 0.2): 0.735 nats a token with DOUBT
alone and 0.679 so, where the genie loses 0.662."""

CERTAIN = 1e-6
"""Greedy's doubt over a whole sample up to which it counts as certain: its losses are then those of
the Bayes learner to about as many nats."""

_WINDOW = re.compile(r"bayes-([1-9][0-9]{0,17})")
_NAMES = frozenset(LADDER) - {name for name in LADDER if _WINDOW.fullmatch(name)}


def window_of(name: str) -> int | None:
    """W of "bayes-<W>", in tokens; None for any other name."""
    found = _WINDOW.fullmatch(name)
    return int(found[1]) if found else None


def checked(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once. Raises InvalidArgument for one that is no predictor."""
    for name in names:
        if name not in _NAMES and window_of(name) is None:
            bound = "bayes-W with W >= 1, or one of " + ", ".join(sorted(_NAMES))
            raise InvalidArgument("predictor", name, bound)
    return tuple(dict.fromkeys(names))

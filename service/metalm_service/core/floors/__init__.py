"""What the best possible predictors lose on a sample, in nats per predicted token.

Separators are never corrupted and nothing is corrupted into one, so the alignment is observed, and
the optimum can be computed. `losses` measures these predictors, every one of them causal (it sees
x[0..t] when it predicts y[t]) and normalised:

- `known` knows the language: no predictor is better, on average.
- `genie` is the Bayes learner to whom the element of each past repetition is told: on average no
  predictor that does not know the language is better. `greedy` takes each finished repetition for
  the most probable element: an upper bound of the optimum, as it could be built. Where the two
  agree on a sequence, bit for bit, and greedy was in no doubt, they are the optimum itself, exact
  on that sequence (`summary.exact_rows`).
- `bayes-<W>` is the genie with a memory of the last W tokens (and told the offset where it is, but
  not how much was said before): a lower bound for each predictor that has no other. From W = L on
  it is the genie.
- `vote` and `last-copy` are greedy with less: the shares of the symbols among the copies and no
  knowledge of the channel; the most recent copy alone.
- `suffix`: interpolated Witten-Bell over the last four to no tokens. `content-free`: knows how long
  elements are, and nothing of what they say. `uniform`: ln(A + 1), nothing at all.
"""

from metalm_service.core.floors.cost import FloorsCost, cost_of
from metalm_service.core.floors.curves import losses, warm
from metalm_service.core.floors.predictors import BRACKET, LADDER, checked, window_of
from metalm_service.core.floors.streams import NEVER, Targets, targets

__all__ = [
    "BRACKET",
    "LADDER",
    "NEVER",
    "FloorsCost",
    "Targets",
    "checked",
    "cost_of",
    "losses",
    "targets",
    "warm",
    "window_of",
]

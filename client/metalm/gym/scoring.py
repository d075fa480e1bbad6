"""Actions, and the rewards they earn."""

from __future__ import annotations

import operator
from enum import StrEnum, auto
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from metalm_proto.batch import Tokens
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import Field
from metalm_proto.spec import Spec

Rewards = NDArray[np.float64]

_LEAST = 2.0**-126
"""The smallest normal float32. A probability below it earns what this one does: a reward is finite,
and no smaller than -87.34."""


class Action(StrEnum):
    """What a model says at each step.

    `token`: the id of the token that it expects, an integer; the reward is 1 if the next clean
    token is that one, else 0.

    `distribution`: V+2 weights, one for each id, finite and not negative, such as the output of a
    softmax. Divided by their sum they are probabilities; the reward is the natural logarithm of
    that of the next clean token, in nats (a probability below 2^-126 counts as 2^-126). So the mean
    reward is minus the loss that language models report.
    """

    TOKEN = auto()
    DISTRIBUTION = auto()


ACTION = Field(name="action", kind=Action, default=Action.TOKEN, doc="what a model says")


class Scoring(Protocol):
    """The rewards of one kind of action. All methods raise InvalidArgument for what is none."""

    kind: ClassVar[Action]
    space: gymnasium.Space[Any]

    def reward(self, action: Any, target: int) -> float:
        """Of one action, if `target` was right."""
        ...

    def rewards(self, actions: Any, targets: Tokens) -> Rewards:
        """Of B actions, if `targets` [B] were right: [B]."""
        ...

    def likeliest(self, action: Any) -> int:
        """The token that an action, already rewarded, is most for."""
        ...


class TokenScoring:
    kind: ClassVar = Action.TOKEN

    def __init__(self, spec: Spec) -> None:
        self._ids = spec.vocabulary
        self.space = gymnasium.spaces.Discrete(self._ids)

    def reward(self, action: Any, target: int) -> float:
        try:
            token = operator.index(action)
        except TypeError:
            token = -1
        if not 0 <= token < self._ids:
            bound = f"an integer with 0 <= action <= {self._ids - 1}"
            raise InvalidArgument("action", action, bound)
        return float(token == target)

    def rewards(self, actions: Any, targets: Tokens) -> Rewards:
        tokens = np.asarray(actions)
        if (
            tokens.shape != targets.shape
            or tokens.dtype.kind not in "iu"
            or tokens.min() < 0
            or tokens.max() >= self._ids
        ):
            bound = f"{len(targets)} integers with 0 <= action <= {self._ids - 1}"
            raise InvalidArgument("actions", actions, bound)
        rewards: Rewards = (tokens == targets).astype(np.float64)
        return rewards

    def likeliest(self, action: Any) -> int:
        return operator.index(action)


class DistributionScoring:
    kind: ClassVar = Action.DISTRIBUTION

    def __init__(self, spec: Spec) -> None:
        self._ids = spec.vocabulary
        self.space = gymnasium.spaces.Box(0, 1, (self._ids,), np.float32)

    def reward(self, action: Any, target: int) -> float:
        return float(self.rewards(np.asarray(action)[None], np.array([target]))[0])

    def rewards(self, actions: Any, targets: Tokens) -> Rewards:
        weights = np.asarray(actions)
        if weights.shape != (len(targets), self._ids) or weights.dtype.kind not in "fiu":
            bound = f"numbers of shape {(len(targets), self._ids)}"
            raise InvalidArgument("actions", f"{weights.dtype} of shape {weights.shape}", bound)
        totals = weights.sum(axis=1, dtype=np.float64)
        # A NaN fails every comparison, and an infinity shows in the sum.
        if not (weights.min() >= 0 and totals.min() > 0 and totals.max() < np.inf):
            bound = "finite, not negative, and not all zero in any row"
            raise InvalidArgument("actions", actions, bound)
        chosen = weights[np.arange(len(targets)), targets]
        rewards: Rewards = np.log(np.maximum(chosen / totals, _LEAST))
        return rewards

    def likeliest(self, action: Any) -> int:
        return int(np.argmax(action))


SCORINGS: dict[Action, type[TokenScoring] | type[DistributionScoring]] = {
    scoring.kind: scoring for scoring in (TokenScoring, DistributionScoring)
}

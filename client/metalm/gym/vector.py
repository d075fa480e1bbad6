"""Many sequences at once as a vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metalm.client import MetaLMClient
from metalm.gym.scoring import Action, Rewards
from metalm.gym.source import EnvArguments, Sourced, chosen_episode
from metalm_proto.batch import Tokens
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import SEED, Split

_METADATA = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
_NUM_ENVS = Field(name="num_envs", lower=1, upper=2**31 - 1, doc="sequences side by side")

Observations = NDArray[np.int64]
Flags = NDArray[np.bool_]


class MetaLMVectorEnv(Sourced, VectorEnv[Observations, Any, NDArray[Any]]):
    """B = `num_envs` sequences side by side, each as `MetaLMEnv` has it, stepped as arrays.

    Environment i in episode k has sample k*B + i of the stream. With a list of B seeds in `reset`,
    it has sample k of the stream of seeds[i].

    All sequences have L tokens, so all episodes end together. Autoreset is gymnasium's NEXT_STEP:
    the step after the last one ignores its actions, begins the next episode, and has reward 0. So
    the last reward is handed out before the next samples are asked for.

    The arguments are those of MetaLMEnv, without `render_mode`. Actions: [B] integers, or [B, V+2]
    weights; observations int64 [B], rewards float64 [B]. Every `info` has the keys of MetaLMEnv's
    as arrays [B], each with its mask `_key` [B].

    Raises InvalidArgument for a value out of bounds.
    """

    metadata = _METADATA
    # Some versions of gymnasium close what is collected, even where it was refused at birth.
    closed = True

    def __init__(
        self,
        num_envs: int = 1,
        *,
        action: Action | str = Action.TOKEN,
        url: str | Sequence[str] | None = None,
        client: MetaLMClient | None = None,
        split: Split | str = Split.TRAIN,
        seed: int | None = None,
        **fields: Unpack[EnvArguments],
    ) -> None:
        self.num_envs = _NUM_ENVS.check(num_envs)
        super().__init__(
            action=action, url=url, client=client, split=split, seed=seed, fields=fields
        )
        self.single_action_space = self._scoring.space
        self.single_observation_space = gymnasium.spaces.Discrete(self.data_spec.vocabulary)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._episode_field = Field(
            name="episode", lower=0, upper=U64 // self.num_envs - 1, doc="the samples to play"
        )
        self._streams: int | tuple[int, ...] = self._seed
        self._next_episode = 0
        self._samples: tuple[Tokens, Tokens] | None = None
        self._t = 0
        self._named: dict[str, NDArray[np.uint64]] = {}
        self.closed = False

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """The next episode of all; with a seed, or a list of B seeds, episode 0 of those streams;
        with options={"episode": k}, episode k. Returns the first tokens, and info.

        Raises any MetaLMError; the environment then is where it was, and can be asked again.
        """
        streams = self._streams if seed is None else self._checked(seed)
        episode = chosen_episode(options, self._episode_field)
        if episode is None:
            episode = self._next_episode if seed is None else 0
        answer = self._begin(streams, episode)
        if seed is not None or self._np_random is None:
            super().reset(seed=streams if isinstance(streams, int) else None)
        return answer

    def step(self, actions: Any) -> tuple[Observations, Rewards, Flags, Flags, dict[str, Any]]:
        """The next tokens, the rewards, whether these were the last ones, False, and info.

        Raises InvalidArgument for what are no actions, ResetNeeded before the first `reset`, and,
        where an episode begins, any MetaLMError; the environment then is where it was, and can be
        asked again.
        """
        if self._samples is None:
            raise ResetNeeded("no episode is under way: call reset first")
        (x, y), t, length, count = self._samples, self._t, self.data_spec.L, self.num_envs
        if t == length:
            heard, info = self._begin(self._streams, self._next_episode)
            return heard, np.zeros(count), np.zeros(count, bool), np.zeros(count, bool), info
        targets = y[:, t].astype(np.int64)
        rewards = self._scoring.rewards(actions, targets)
        self._t = t = t + 1
        if t == length:
            heard = np.full(count, self.data_spec.mask_id, np.int64)
        else:
            heard = x[:, t].astype(np.int64)
        terminated = np.full(count, t == length)
        return heard, rewards, terminated, np.zeros(count, bool), self._info(target=targets)

    def close_extras(self, **_: Any) -> None:
        """Closes the client, if it was made here."""
        self._source.close()

    def _checked(self, seed: object) -> int | tuple[int, ...]:
        if not isinstance(seed, Sequence | np.ndarray):
            stream: int = SEED.check(seed)
            return stream
        streams = tuple(SEED.check(one) for one in seed)
        if len(streams) != self.num_envs:
            raise InvalidArgument("seed", seed, f"an integer, or {self.num_envs} of them")
        return streams

    def _begin(
        self, streams: int | tuple[int, ...], episode: int
    ) -> tuple[Observations, dict[str, Any]]:
        """Changes nothing before all samples are there."""
        episode, count = self._episode_field.check(episode), self.num_envs
        if isinstance(streams, int):
            x, y = self._source.samples(episode * count, count, streams)
            index = np.uint64(episode * count) + np.arange(count, dtype=np.uint64)
            seeds = np.full(count, streams, np.uint64)
        else:
            batches = [self._source.sample(episode, stream) for stream in streams]
            x, y = (np.concatenate(rows) for rows in zip(*batches, strict=True))
            index = np.full(count, episode, np.uint64)
            seeds = np.array(streams, np.uint64)
        self._streams, self._next_episode = streams, episode + 1
        self._samples, self._t = (x, y), 0
        episodes = np.full(count, episode, np.uint64)
        self._named = {"seed": seeds, "episode": episodes, "index": index}
        return x[:, 0].astype(np.int64), self._info()

    def _info(self, **more: NDArray[Any]) -> dict[str, Any]:
        """New arrays each time: users keep them."""
        named = {name: array.copy() for name, array in self._named.items()}
        values = {**named, "t": np.full(self.num_envs, self._t), **more}
        masks = {f"_{name}": np.ones(self.num_envs, bool) for name in values}
        return {**values, **masks}

"""One sequence as an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import gymnasium
from gymnasium.error import ResetNeeded

from metalm.client import MetaLMClient
from metalm.gym.metagym import MetaGym
from metalm.gym.rendering import Transcript
from metalm.gym.scoring import Action
from metalm.gym.source import EnvArguments, chosen_episode
from metalm_proto.batch import Batch
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import U64, Field
from metalm_proto.spec import SEED, Split

_METADATA = {"render_modes": ["ansi"], "render_fps": 4}
_EPISODE = Field(name="episode", lower=0, upper=U64 - 1, doc="the sample to play")


class MetaLMEnv(MetaGym, gymnasium.Env[Any, Any]):
    """A model hears a sample of MetaLM(V, n, l, e, L) token by token, and says what comes next.

    An observation is a token of x; the action is judged by y, the clean token that follows (see
    `Action` for both kinds of action and their rewards). Exactly L actions are an episode, which
    then has terminated: a sample of L tokens is the whole task. The last observation is PaddingID,
    as x has no token there.

    Episode k of seed s is sample k of stream s, whatever came before. Episodes and the methods of
    MetaGym share `position`, so that neither hands out what the other did.

    V, n, l, e, L, mask_ratio, profile and language are those of `Spec`. `url` is a service as
    MetaLMClient takes it, with its `token`, `ca`, `cert` and `key` (the token better as a path:
    gymnasium writes an environment's arguments into its errors), and `client` an open client in its
    place, which is not closed with the environment; without either, this process generates. `seed`
    names the stream until `reset` is given one; None draws one. `render_mode`: None, or "ansi" for
    text.

    Every `info` has `seed`, `episode` and `index` (the sample: the same number here), and `t`, how
    many tokens were predicted; after a step also `target`, the clean token that was asked for.

    Raises InvalidArgument for a value out of bounds.
    """

    metadata = _METADATA

    def __init__(
        self,
        *,
        action: Action | str = Action.TOKEN,
        url: str | Sequence[str] | None = None,
        client: MetaLMClient | None = None,
        split: Split | str = Split.TRAIN,
        seed: int | None = None,
        render_mode: str | None = None,
        **fields: Unpack[EnvArguments],
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise InvalidArgument("render_mode", render_mode, "ansi or None")
        super().__init__(
            action=action, url=url, client=client, split=split, seed=seed, fields=fields
        )
        self.render_mode = render_mode
        self.action_space = self._scoring.space
        self.observation_space = gymnasium.spaces.Discrete(self.VocabSize)
        self._sample: Batch | None = None
        self._t = 0
        self._transcript: Transcript | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The next episode; with a seed, episode 0 of that stream; with options={"episode": k},
        episode k. Returns the first token, and info.

        Raises any MetaLMError; the environment then is where it was, and can be asked again.
        """
        stream = self._seed if seed is None else SEED.check(seed)
        episode = chosen_episode(options, _EPISODE)
        if episode is None:
            episode = self._position if seed is None else 0
        rendering = self.render_mode is not None
        sample = self._source.sample(episode, stream, provenance=rendering)
        if seed is not None or self._np_random is None:
            super().reset(seed=stream)
        self._seed, self._position = stream, episode + 1
        self._sample, self._t = sample, 0
        self._transcript = Transcript(sample, self._scoring.kind) if rendering else None
        return int(sample.x[0, 0]), self._info(sample)

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """The next token, the reward, whether this was the last one, False, and info.

        Raises InvalidArgument for what is no action, and ResetNeeded where no episode is under way.
        """
        sample, t = self._sample, self._t
        if sample is None or t == self.data_spec.L:
            raise ResetNeeded("no episode is under way: call reset first")
        target = int(sample.y[0, t])
        reward = self._scoring.reward(action, target)
        if self._transcript is not None:
            self._transcript.add(self._scoring.likeliest(action), reward)
        self._t = t = t + 1
        terminated = t == self.data_spec.L
        heard = self.PaddingID if terminated else int(sample.x[0, t])
        return heard, reward, terminated, False, {**self._info(sample), "target": target}

    def render(self) -> str | None:
        """What was heard and said last, as text; None where no render_mode was chosen.

        Raises ResetNeeded before the first episode.
        """
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs an environment made with render_mode="ansi"')
            return None
        if self._transcript is None:
            raise ResetNeeded("no episode is under way: call reset first")
        return str(self._transcript)

    def close(self) -> None:
        """Closes the client, if it was made here; may be called again."""
        self._source.close()

    def _info(self, sample: Batch) -> dict[str, Any]:
        return {
            "seed": sample.seed,
            "episode": sample.first,
            "index": sample.first,
            "t": self._t,
        }

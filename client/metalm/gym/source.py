"""Where the samples of an environment come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from metalm.client import MetaLMClient, SpecArguments
from metalm.credentials import CredentialArguments, Secret
from metalm.files.base import batch_size_for
from metalm.gym.scoring import ACTION, SCORINGS, Action
from metalm.iterator import BatchIterator
from metalm_proto.batch import Batch, Tokens
from metalm_proto.errors import InvalidArgument, LimitExceeded
from metalm_proto.fields import Field
from metalm_proto.spec import SEED, SPLIT, BatchRequest, Spec, Split, draw_seed

Urls = str | Sequence[str]

_CREDENTIALS = tuple(CredentialArguments.__annotations__)
_TEXT_SAMPLES = 32
"""As text, samples take many times their bytes."""
_REQUEST_BYTES = 2**25
"""Half of what a service allows in one batch by default."""


class EnvArguments(SpecArguments, CredentialArguments, total=False):
    """The fields of `Spec`, and what a service wants to be shown, as keywords."""


class Source:
    """The samples of one spec and split, from a client that is ours (`url`) or somebody's
    (`client`).

    A copy, and what comes out of a pickle, has a client of its own: connections cannot be copied.
    """

    def __init__(
        self,
        spec: Spec,
        split: Split,
        url: Urls | None,
        client: MetaLMClient | None = None,
        credentials: CredentialArguments | None = None,
    ) -> None:
        if client is not None and url is not None:
            raise InvalidArgument("url", url, "absent where client is given")
        credentials = credentials or {}
        if client is not None and credentials:
            raise InvalidArgument(min(credentials), Secret(), "absent where client is given")
        self.spec = spec
        self.split = split
        self._ours = client is None
        self.client = (
            MetaLMClient("inprocess:" if url is None else url, **credentials)
            if client is None
            else client
        )

    def sample(self, index: int, seed: int, *, provenance: bool = False) -> Batch:
        """Sample `index` of stream `seed`. Raises any MetaLMError.

        Each is a request of its own: an agent may take its time, and a stream that nobody reads
        is ended by the service.
        """
        return self.client.sample(
            index, seed=seed, split=self.split, provenance=provenance, spec=self.spec
        )

    def samples(self, first: int, size: int, seed: int) -> tuple[Tokens, Tokens]:
        """x and y, [size, L], of the samples from `first` on. Raises any MetaLMError."""
        spec = self.spec
        try:
            x, y = np.empty((2, size, spec.L), spec.dtype)
        except (MemoryError, ValueError) as error:  # numpy's for more than it can address
            bound = f"smaller (or L): {2 * size * spec.L * spec.dtype.itemsize} bytes do not fit"
            raise LimitExceeded("batch_size", size, bound) from error
        with self.batches(first, size, seed) as batches:
            for batch in batches:
                rows = slice(batch.first - first, batch.first - first + batch.size)
                x[rows], y[rows] = batch
        return x, y

    def request(self, first: int, size: int, seed: int) -> BatchRequest:
        """The samples [first, first + size), to be written. Raises InvalidArgument."""
        return BatchRequest(
            spec=self.spec,
            split=self.split,
            seed=seed,
            start=first,
            stop=first + size,
            batch_size=min(_TEXT_SAMPLES, batch_size_for(self.spec)),
        )

    def batches(self, first: int, size: int, seed: int) -> BatchIterator:
        """The samples [first, first + size), in batches that a service sends by default."""
        sample_bytes = 2 * self.spec.L * self.spec.dtype.itemsize
        return self.client.batches(
            spec=self.spec,
            split=self.split,
            seed=seed,
            start=first,
            stop=first + size,
            batch_size=min(size, max(1, _REQUEST_BYTES // sample_bytes)),
        )

    def close(self) -> None:
        """Closes the client if it is ours."""
        if self._ours:
            self.client.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_ours": True}


class Sourced:
    """What both environments have: a source of samples, the seed of a stream, a kind of action.

    `data_spec`: the `Spec` of the samples (gymnasium has the name `spec` for its own). `split`:
    the `Split` they are of.
    """

    def __init__(
        self,
        *,
        action: Action | str,
        url: Urls | None,
        client: MetaLMClient | None,
        split: Split | str,
        seed: int | None,
        fields: EnvArguments,
    ) -> None:
        given: dict[str, Any] = dict(fields)
        credentials: Any = {name: given.pop(name) for name in _CREDENTIALS if name in given}
        self.data_spec = Spec(**given)
        self.split: Split = SPLIT.check(split)
        self._scoring = SCORINGS[ACTION.check(action)](self.data_spec)
        self._seed: int = draw_seed() if seed is None else SEED.check(seed)
        self._source = Source(self.data_spec, self.split, url, client, credentials)
        self._registered: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What gymnasium made this environment from, and can make another from.

        A client that was given stands in it by its URLs: gymnasium copies specs.
        """
        return self._registered

    @spec.setter
    def spec(self, registered: EnvSpec | None) -> None:
        if registered is not None and "client" in registered.kwargs:
            kwargs = {k: v for k, v in registered.kwargs.items() if k != "client"}
            registered.kwargs = {**kwargs, "url": self._source.client.urls}
        if registered is not None and isinstance(registered.kwargs.get("token"), str):
            registered.kwargs = {**registered.kwargs, "token": Secret(registered.kwargs["token"])}
        self._registered = registered


def chosen_episode(options: Mapping[str, Any] | None, episode: Field) -> int | None:
    """What `reset` was told to jump to. Raises InvalidArgument, also for an option that is none."""
    given = dict(options or {})
    chosen = given.pop(episode.name, None)
    if given:
        raise InvalidArgument("options", min(given), "episode, the only option")
    return None if chosen is None else episode.check(chosen)

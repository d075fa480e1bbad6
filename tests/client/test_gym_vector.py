"""Many sequences side by side: `gymnasium.make_vec("meta-lm-v0", …)`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList

from metalm import InvalidArgument, MetaLMClient, MetaLMError
from metalm.gym import MetaLMVectorEnv
from metalm_proto.fields import U64
from tests.forked import running

SMALL: dict[str, Any] = {"V": 9, "n": 3, "l": 4, "e": 0.2, "L": 12}
B = 5


def make(**arguments: Any) -> Any:
    return gymnasium.make_vec("meta-lm-v0", num_envs=B, **{**SMALL, **arguments})


def assert_same(one: Any, other: Any) -> None:
    """Values and, where the space or gymnasium says one, types."""
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        if isinstance(mine, dict):
            assert set(mine) == set(theirs)
            for name, value in mine.items():
                assert np.array_equal(value, theirs[name]), name
        else:
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs)


def test_make_vec_gives_it_with_batched_spaces() -> None:
    for mode in (None, "vector_entry_point"):
        env = make(vectorization_mode=mode)
        assert type(env) is MetaLMVectorEnv
        assert env.num_envs == B
        assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        assert env.single_observation_space == gymnasium.spaces.Discrete(11)
        assert env.observation_space == gymnasium.spaces.MultiDiscrete([11] * B)
        assert env.action_space == gymnasium.spaces.MultiDiscrete([11] * B)
    env = make(action="distribution")
    assert env.single_action_space == gymnasium.spaces.Box(0, 1, (11,), np.float32)
    assert env.action_space == gymnasium.spaces.Box(0, 1, (B, 11), np.float32)


@pytest.mark.parametrize("action", ["token", "distribution"])
def test_it_is_gymnasiums_vector_of_single_environments(action: str) -> None:
    """Step by step over three episodes: observations, rewards, flags, infos with their masks."""
    mine = make(action=action)
    theirs = make(action=action, vectorization_mode="sync")
    seeds = [3, 2**53, 8, 3, 0]
    assert_same(mine.reset(seed=seeds), theirs.reset(seed=seeds))
    mine.action_space.seed(1)
    rewarded: Any = 0
    for number in range(3 * 13):
        actions = mine.action_space.sample()
        found, expected = mine.step(actions), theirs.step(actions)
        assert_same(found, expected)
        assert found[0] in mine.observation_space
        assert found[2].all() == (number % 13 == 11)
        rewarded += np.count_nonzero(found[1])
    assert rewarded > 10
    assert_same(mine.reset(), theirs.reset())


def test_environment_i_has_sample_k_times_b_plus_i(url: str) -> None:
    env = make(url=url)
    x, y = MetaLMClient().batch(0, batch_size=3 * B, seed=6, **SMALL)
    heard, info = env.reset(seed=6)
    for k in range(3):
        rows = slice(k * B, k * B + B)
        assert info["seed"].tolist() == [6] * B
        assert info["episode"].tolist() == [k] * B
        assert info["index"].tolist() == list(range(k * B, k * B + B))
        assert info["t"].tolist() == [0] * B
        for t in range(12):
            assert np.array_equal(heard, x[rows, t])
            actions = np.where(np.arange(B) % 2, y[rows, t], 0)
            heard, rewards, terminated, truncated, info = env.step(actions)
            assert rewards.tolist() == (np.arange(B) % 2).tolist()
            assert np.array_equal(info["target"], y[rows, t])
            assert terminated.tolist() == [t == 11] * B
            assert not truncated.any()
        assert heard.tolist() == [0] * B
        heard, rewards, terminated, truncated, info = env.step(None)
        assert "target" not in info
        assert not rewards.any()
        assert not terminated.any()
        assert not truncated.any()
    env.close()


def test_resets_jump(url: str) -> None:
    env = make(url=url, seed=4, split="validation")

    def indices(**arguments: Any) -> tuple[int, int, bool]:
        heard, info = env.reset(**arguments)
        x, _ = MetaLMClient().batch(
            int(info["index"][0]),
            batch_size=B,
            seed=int(info["seed"][0]),
            split="validation",
            **SMALL,
        )
        return info["seed"][0], info["index"][0], np.array_equal(heard, x[:, 0])

    assert indices() == (4, 0, True)
    assert env.np_random_seed == 4
    assert indices() == (4, B, True)
    assert indices(options={"episode": 2**40}) == (4, B * 2**40, True)
    assert indices() == (4, B * (2**40 + 1), True)
    assert indices(seed=U64 - 1) == (U64 - 1, 0, True)
    last = U64 // B - 1
    assert indices(options={"episode": last}) == (U64 - 1, last * B, True)
    with pytest.raises(InvalidArgument, match="episode"):
        env.reset()
    env.close()


def test_a_list_of_seeds_names_a_stream_each(url: str) -> None:
    env = make(url=url)
    seeds = np.array([9, 1, 9, 7, 2**63], np.uint64)
    heard, info = env.reset(seed=seeds, options={"episode": 3})
    assert info["seed"].tolist() == seeds.tolist()
    assert info["index"].tolist() == info["episode"].tolist() == [3] * B
    for i, seed in enumerate(seeds.tolist()):
        assert heard[i] == MetaLMClient().sample(3, seed=seed, **SMALL).x[0, 0]
    _, info = env.reset()
    assert info["seed"].tolist() == seeds.tolist()
    assert info["index"].tolist() == [4] * B
    env.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": [1, 2]},
        {"seed": [1, 2, 3, 4, -1]},
        {"seed": [1, 2, 3, 4, None]},
        {"options": {"episode": U64 // B}},
        {"options": {"reset_mask": np.ones(B, bool)}},
    ],
    ids=str,
)
def test_reset_refuses_and_changes_nothing(arguments: dict[str, Any]) -> None:
    env = make(seed=1)
    env.reset()
    env.step(np.zeros(B, int))
    with pytest.raises(InvalidArgument):
        env.reset(**arguments)
    assert env.step(np.zeros(B, int))[4]["t"].tolist() == [2] * B
    assert env.reset()[1]["episode"].tolist() == [1] * B


@pytest.mark.parametrize(
    ("action", "actions"),
    [
        ("token", np.zeros(B)),
        ("token", np.zeros(B + 1, int)),
        ("token", np.full(B, 11)),
        ("token", np.array([0, 0, 0, 0, -1])),
        ("token", None),
        ("distribution", np.ones((B, 10))),
        ("distribution", np.zeros((B, 11))),
        ("distribution", np.where(np.arange(B)[:, None] == 2, np.nan, np.ones((B, 11)))),
        ("distribution", None),
    ],
    ids=str,
)
def test_what_are_no_actions_is_refused_and_changes_nothing(action: str, actions: Any) -> None:
    env = make(seed=1, action=action)
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    env.reset()
    with pytest.raises(InvalidArgument, match="actions"):
        env.step(actions)
    assert env.step(env.action_space.sample())[4]["t"].tolist() == [1] * B


@pytest.mark.parametrize("num_envs", [0, -1, 1.5, 2**31])
def test_the_number_of_environments_is_checked(num_envs: Any) -> None:
    with pytest.raises(InvalidArgument, match="num_envs"):
        MetaLMVectorEnv(num_envs)


def test_the_step_that_begins_an_episode_can_be_asked_again() -> None:
    with running() as service:
        port = service.http.rpartition(":")[2]
        with MetaLMClient(service.http, timeout_s=0.5) as client:
            env = make(client=client, seed=2)
            twin = make(seed=2)
            assert_same(env.reset(), twin.reset())
            service.stop()
            actions = np.ones(B, int)
            for _ in range(12):
                assert_same(env.step(actions), twin.step(actions))
            for _ in range(2):
                with pytest.raises(MetaLMError) as caught:
                    env.step(actions)
                assert caught.value.retryable
            with running("--port", port):
                for _ in range(14):
                    assert_same(env.step(actions), twin.step(actions))


def test_what_is_handed_out_is_the_users() -> None:
    env, twin = make(seed=1), make(seed=1)
    given = [env.reset()]
    twin.reset()
    for _ in range(3):
        answer = env.step(np.zeros(B, int))
        assert_same(answer, twin.step(np.zeros(B, int)))
        given.append(answer)
        for array in (*answer[:4], *answer[4].values()):
            array[...] = 1


def test_infos_can_be_taken_apart() -> None:
    env = DictInfoToList(make(seed=5))
    _, infos = env.reset()
    assert infos[3]["index"] == 3
    _, _, _, _, infos = env.step(np.zeros(B, int))
    assert set(infos[3]) == {"seed", "episode", "index", "t", "target"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_by_itself(server_url: str, copied: Callable[[Any], Any]) -> None:
    with MetaLMClient(server_url) as client:
        env = make(client=client, seed=1)
        env.reset()
        twin = copied(env)
        for _ in range(14):
            assert_same(env.step(np.ones(B, int)), twin.step(np.ones(B, int)))
        twin.close()
        env.close()
        env.close()
        assert client.sample(L=5).size == 1

"""`meta-lm-v0`: one sequence as an environment."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics

import metalm.gym
from metalm import InvalidArgument, MetaLMClient, MetaLMError
from metalm.gym import MetaLMEnv
from metalm_proto.fields import U64
from tests.forked import running

SMALL: dict[str, Any] = {"V": 9, "n": 3, "l": 4, "e": 0.2, "L": 60}


def make(**arguments: Any) -> Any:
    return gymnasium.make("meta-lm-v0", **{**SMALL, **arguments})


def play(env: Any, actions: Callable[[int], Any]) -> list[tuple[Any, ...]]:
    """An episode that was begun, to its end."""
    steps = [env.step(actions(0))]
    while not steps[-1][2]:
        steps.append(env.step(actions(len(steps))))
    return steps


def test_make_gives_the_environment_itself_with_and_without_the_module_in_the_name() -> None:
    for name in ("meta-lm-v0", "metalm.gym:meta-lm-v0"):
        env = gymnasium.make(name, V=64, n=10, l=64, e=0.10, L=4096)
        assert type(env) is MetaLMEnv
        assert env.unwrapped is env
        assert env.observation_space == gymnasium.spaces.Discrete(66)
        assert env.action_space == gymnasium.spaces.Discrete(66)


def test_nothing_is_registered_before_metalm_gym_is_imported() -> None:
    code = (
        "import sys, metalm, metalm.cli; assert 'gymnasium' not in sys.modules;"
        "import gymnasium; assert 'meta-lm-v0' not in gymnasium.registry;"
        "env = gymnasium.make('metalm.gym:meta-lm-v0', L=5); print(env.reset(seed=7)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == MetaLMClient().sample(L=5, seed=7).x[0, 0]


@pytest.mark.parametrize("render_mode", [None, "ansi"])
@pytest.mark.parametrize("action", ["token", "distribution"])
def test_gymnasiums_checker_has_nothing_to_say(
    url: str, action: str, render_mode: str | None
) -> None:
    """Warnings are errors here."""
    env = make(url=url, action=action, render_mode=render_mode)
    check_env(env)
    env.close()


def test_a_sequence_of_one_token_is_an_episode() -> None:
    check_env(make(L=1))


def test_what_is_heard_is_x_and_what_is_right_is_y(url: str) -> None:
    x, y = MetaLMClient().sample(**SMALL, seed=5, split="test")
    env = make(url=url, split="test")
    heard, info = env.reset(seed=5)
    assert (heard, info) == (x[0, 0], {"seed": 5, "episode": 0, "index": 0, "t": 0})
    steps = play(env, lambda t: int(y[0, t]) if t % 3 else 0)
    env.close()
    observations, rewards, terminated, truncated, infos = zip(*steps, strict=True)
    assert observations == (*x[0, 1:].tolist(), env.PaddingID)
    assert rewards == tuple(float(t % 3 > 0) for t in range(60))
    assert terminated == (*[False] * 59, True)
    assert not any(truncated)
    assert [info["target"] for info in infos] == y[0].tolist()
    assert [info["t"] for info in infos] == list(range(1, 61))
    assert all(type(heard) is int and type(reward) is float for heard, reward, *_ in steps)


def test_every_door_has_the_same_trajectories(url: str) -> None:
    mine, twin = make(url=url, action="distribution"), make(action="distribution")
    mine.action_space.seed(1)
    for options in (None, {"episode": 2**40}, None):
        seed = 11 if options is None and mine.position == 0 else None
        assert mine.reset(seed=seed, options=options) == twin.reset(seed=seed, options=options)
        actions = [mine.action_space.sample() for _ in range(60)]
        assert play(mine, actions.__getitem__) == play(twin, actions.__getitem__)
    assert mine.position == 2**40 + 2
    mine.close()


def first_tokens(env: Any, seed: int | None = None, options: Any = None) -> tuple[int, int, Any]:
    """Of an episode: seed, episode, and tokens enough to know it by."""
    heard, info = env.reset(seed=seed, options=options)
    return info["seed"], info["episode"], [heard, *(env.step(0)[0] for _ in range(20))]


def expected(seed: int, episode: int) -> tuple[int, int, Any]:
    return seed, episode, MetaLMClient().sample(episode, seed=seed, **SMALL).x[0, :21].tolist()


def test_an_episode_is_a_function_of_seed_and_number() -> None:
    env = make(seed=3)
    assert first_tokens(env) == expected(3, 0)
    assert env.np_random_seed == 3
    assert first_tokens(env) == expected(3, 1)
    assert first_tokens(env, seed=4) == expected(4, 0)
    assert first_tokens(env, options={"episode": 9}) == expected(4, 9)
    assert first_tokens(env) == expected(4, 10)
    assert first_tokens(env, seed=U64 - 1, options={"episode": U64 - 1}) == expected(
        U64 - 1, U64 - 1
    )
    with pytest.raises(InvalidArgument, match="index"):
        env.reset()
    assert first_tokens(env, options={"episode": 1}) == expected(U64 - 1, 1)


def test_without_a_seed_one_is_drawn_and_told() -> None:
    seeds = set()
    for _ in range(3):
        env = make()
        seed, episode, tokens = first_tokens(env)
        assert (seed, episode, tokens) == expected(seed, 0)
        assert first_tokens(env) == expected(seed, 1)
        assert env.stream_seed == env.np_random_seed == seed
        seeds.add(seed)
    assert len(seeds) == 3


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"options": {"episode": -1}}, "episode"),
        ({"options": {"episode": U64}}, "episode"),
        ({"options": {"episodes": 1}}, "options"),
    ],
    ids=str,
)
def test_reset_refuses_and_changes_nothing(arguments: dict[str, Any], field: str) -> None:
    env = make(seed=1)
    env.reset()
    env.step(0)
    with pytest.raises(InvalidArgument) as caught:
        env.reset(**arguments)
    assert caught.value.field == field
    assert env.step(0)[4]["t"] == 2
    assert first_tokens(env) == expected(1, 1)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"V": 1}, "vocab_size (V)"),
        ({"split": "dev"}, "split"),
        ({"seed": U64}, "seed"),
        ({"action": "word"}, "action"),
        ({"url": "ftp://x"}, "url"),
        ({"url": ""}, "url"),
        ({"url": "inprocess:", "client": MetaLMClient()}, "url"),
    ],
    ids=",".join,
)
def test_make_refuses(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make(**arguments)
    assert caught.value.field == field


def test_wrong_names_are_refused() -> None:
    with pytest.raises(TypeError, match="vocab_size"):
        make(vocab_size=5)
    with pytest.raises(InvalidArgument, match="render_mode"):
        MetaLMEnv(render_mode="human")


def test_steps_need_an_episode() -> None:
    env = make(seed=1, L=2, render_mode="ansi")
    for call in (lambda: env.step(0), env.render):
        with pytest.raises(ResetNeeded):
            call()
    env.reset()
    play(env, lambda t: 0)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    assert env.step(0)[4]["episode"] == 1


@pytest.mark.parametrize("action", [-1, 11, 1.0, None, "1", np.zeros(2, int), [1]], ids=str)
def test_what_is_no_token_is_refused_and_changes_nothing(action: Any) -> None:
    env = make(seed=1)
    env.reset()
    with pytest.raises(InvalidArgument, match="0 <= action <= 10"):
        env.step(action)
    assert env.step(0)[4]["t"] == 1


def test_tokens_may_be_numpys(url: str) -> None:
    y = MetaLMClient().sample(**SMALL, seed=1).y[0]
    env = make(url=url)
    env.reset(seed=1)
    assert env.step(y[0])[1] == 1
    assert env.step(np.array(y[1], np.int64))[1] == 1
    env.close()


def test_a_distribution_earns_the_log_of_its_share() -> None:
    y = MetaLMClient().sample(**SMALL, seed=1).y[0]
    env = make(action="distribution")
    assert env.action_space == gymnasium.spaces.Box(0, 1, (11,), np.float32)
    env.reset(seed=1)
    assert env.step(np.full(11, 0.3, np.float32))[1] == pytest.approx(-math.log(11))
    # Weights that do not sum to 1 are divided by their sum.
    for dtype in (np.float32, np.float64, np.float16, np.int64):
        weights = np.ones(11, dtype)
        target = y[env.step(weights)[4]["t"]]
        weights[target] = 10
        assert env.step(weights)[1] == pytest.approx(math.log(0.5))
    certain = np.zeros(11, np.float32)
    certain[y[9]] = 1
    assert env.step(certain)[1] == 0
    # What was held impossible costs much, and a finite amount.
    certain[:] = 0
    certain[0] = 1
    assert env.step(certain)[1] == pytest.approx(-126 * math.log(2))


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros(11),
        np.ones(10),
        np.ones((1, 11)),
        np.eye(11)[0] - 0.1,
        np.full(11, np.nan),
        np.array([np.inf, *[0.0] * 10]),
        np.array(["1"] * 11),
        3,
    ],
    ids=str,
)
def test_what_is_no_distribution_is_refused_and_changes_nothing(weights: Any) -> None:
    env = make(seed=1, action="distribution")
    env.reset()
    with pytest.raises(InvalidArgument, match="actions"):
        env.step(weights)
    assert env.step(np.ones(11))[4]["t"] == 1


def test_an_environment_outlives_its_service() -> None:
    """Where it was when the service went, it is when the service comes back."""
    with running() as service:
        port = service.http.rpartition(":")[2]
        with MetaLMClient(service.http, timeout_s=0.5) as client:
            env = make(client=client, seed=8)
            env.reset()
            service.stop()
            # The episode is here.
            assert len(play(env, lambda t: 0)) == 60
            for _ in range(2):
                with pytest.raises(MetaLMError) as caught:
                    env.reset()
                assert caught.value.retryable
                with pytest.raises(MetaLMError):
                    env.data_generator()
                assert env.position == 1
            with running("--port", port):
                assert first_tokens(env) == expected(8, 1)


def test_close_ends_the_client_that_was_made_here_and_no_other(url: str) -> None:
    with MetaLMClient(url) as client:
        env = make(client=client, seed=1)
        env.reset()
        env.close()
        env.close()
        assert client.sample(L=5).size == 1
    env = make(url=url)
    env.reset()
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("given", [False, True])
def test_a_copy_goes_on_by_itself(url: str, copied: Callable[[Any], Any], given: bool) -> None:
    with MetaLMClient(url) as client:
        env = make(seed=1, render_mode="ansi", **({"client": client} if given else {"url": url}))
        env.reset()
        env.step(3)
        twin = copied(env)
        assert twin.render() == env.render()
        assert twin.step(3) == env.step(3)
        assert twin.reset() == env.reset()
        twin.close()
        assert env.reset()[1]["episode"] == 2
        env.close()


def test_gymnasium_can_make_another_from_its_spec(url: str) -> None:
    """Also under a wrapper, and with a client, of which its URL is kept."""
    with MetaLMClient(url) as client:
        env = RecordEpisodeStatistics(make(client=client, seed=1))
        assert env.spec is not None
        assert env.spec.kwargs["url"] == (url,)
        again = env.spec.make()
        assert again.reset() == env.reset()
        assert env.unwrapped.data_generator()[0].shape == (60,)  # type: ignore[attr-defined]
        again.close()


def test_an_episode_can_be_read() -> None:
    env = make(V=4, n=2, l=3, e=0.2, L=12, render_mode="ansi")
    x, y = MetaLMClient().sample(V=4, n=2, l=3, e=0.2, L=12, seed=0)
    assert x[0].tolist() == [2, 2, 1, 5, 3, 2, 0, 2, 3, 3, 3, 5]
    env.reset(seed=0)
    for t in range(7):
        env.step(int(y[0, t]) if t % 2 else 1)
    assert env.render() == (
        "MetaLM(V=4, n=2, l=3, e=0.2, L=12), seed 0, train, sample 0\n"
        "7 of 12 tokens predicted, 4 right\n"
        "\n"
        "element 0 from offset 0, exposure 0\n"
        "heard   2  2  1  |\n"
        "said       1 =1  1\n"
        "\n"
        "element 1 from offset 0, exposure 0\n"
        "heard   3  2  _ ~2\n"
        "clean         4  1\n"
        "said   =3  1 =4 =1\n"
        "\n"
        "| separator   _ masked   ~ replaced   = said and right"
    )


@pytest.mark.parametrize("action", ["token", "distribution"])
@pytest.mark.parametrize("V", [4, 64, 70_000])
def test_a_rendering_fits_on_a_terminal_and_hides_what_is_to_come(action: str, V: int) -> None:
    env = make(V=V, n=2, l=40, L=200, action=action, render_mode="ansi")
    env.action_space.seed(1)
    heard, _ = env.reset(seed=1)
    for _ in range(200):
        lines = env.render().splitlines()
        assert len(lines) < 24
        assert max(map(len, lines)) <= 80
        last = next(line for line in reversed(lines) if line.startswith("heard")).split()[-1]
        assert last.lstrip("~") == {0: "_", V + 1: "|"}.get(heard, str(heard))
        heard, *_ = env.step(env.action_space.sample())
    assert "200 of 200 tokens predicted" in env.render()
    assert ("mean loss" in env.render()) == (action == "distribution")


def test_a_list_of_renderings_is_gymnasiums_matter() -> None:
    env = make(render_mode="ansi_list")
    env.reset(seed=1)
    env.step(1)
    assert len(env.render()) == 2


def test_without_a_render_mode_nothing_is_rendered() -> None:
    env = make()
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def test_names_that_are_public_are_documented() -> None:
    assert metalm.gym.__all__ == ["Action", "MetaLMEnv", "MetaLMVectorEnv"]
    for name in metalm.gym.__all__:
        thing = getattr(metalm.gym, name)
        for member in [thing, *(v for k, v in vars(thing).items() if not k.startswith("_"))]:
            assert not callable(member) or member.__doc__

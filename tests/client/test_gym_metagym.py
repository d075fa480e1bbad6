"""MetaGym's own interface on the environment."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import metalm.gym  # noqa: F401  # registers
from metalm import InvalidArgument, LimitExceeded, MetaLMClient
from metalm_proto.fields import U64

SMALL: dict[str, Any] = {"V": 300, "n": 3, "l": 4, "e": 0.2, "L": 50}


@pytest.fixture
def env(url: str) -> Iterator[Any]:
    made: Any = gymnasium.make("meta-lm-v0", **SMALL, url=url, seed=3)
    yield made
    made.close()


def samples(first: int, size: int, **other: Any) -> tuple[Any, Any]:
    x, y = MetaLMClient().batch(first, batch_size=size, **{"seed": 3, **SMALL, **other})
    return x, y


def test_the_ids_are_metagyms(env: Any) -> None:
    assert (env.VocabSize, env.SepID, env.MaskID, env.PaddingID) == (302, 301, 0, 0)


def test_samples_and_batches_come_one_after_another(env: Any) -> None:
    x, y = samples(0, 7)
    for at in (0, 1):
        one, label = env.data_generator()
        assert one.shape == label.shape == (50,)
        assert one.dtype == label.dtype == np.int32
        assert np.array_equal(one, x[at])
        assert np.array_equal(label, y[at])
    many, labels = env.batch_generator(4)
    assert many.shape == labels.shape == (4, 50)
    assert many.dtype == labels.dtype == np.int64
    assert np.array_equal(many, x[2:6])
    assert np.array_equal(labels, y[2:6])
    assert env.position == 6
    # An episode is a sample like any other.
    assert env.reset()[1]["index"] == 6
    assert env.position == 7


def test_the_cursor_can_be_set(env: Any) -> None:
    env.position = 2**40
    assert np.array_equal(env.data_generator()[0], samples(2**40, 1)[0][0])
    assert env.position == 2**40 + 1
    for bad in (-1, U64 + 1, 1.5):
        with pytest.raises(InvalidArgument, match="position"):
            env.position = bad
    env.position = U64 - 1
    with pytest.raises(InvalidArgument, match="stop"):
        env.batch_generator(2)
    assert env.data_generator()[0].shape == (50,)
    for call in (env.data_generator, lambda: env.generate_to_file(1, io.StringIO())):
        with pytest.raises(InvalidArgument):
            call()


def test_files_have_metagyms_form(env: Any, tmp_path: Path) -> None:
    path, opened, text = tmp_path / "path", tmp_path / "opened", io.StringIO()
    env.generate_to_file(35, str(path))
    with open(opened, "w") as stream:
        env.generate_to_file(35, stream)
    env.generate_to_file(35, text)
    env.generate_to_file(35, path)
    assert env.position == 140
    for first, written in (
        (35, opened.read_text()),
        (70, text.getvalue()),
        (105, path.read_text()),
    ):
        pairs = [[pair.split(",") for pair in line.split("\t")] for line in written.splitlines()]
        x, y = np.moveaxis(np.array(pairs, int), 2, 0)
        assert np.array_equal(x, samples(first, 35)[0])
        assert np.array_equal(y, samples(first, 35)[1])
        assert written.endswith("\n")


def test_a_file_is_written_whole_or_not_at_all(env: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        env.generate_to_file(1, str(tmp_path / "nowhere" / "file"))
    with pytest.raises(OSError, match="cannot write"):
        env.generate_to_file(1, "")
    assert env.position == 0


@pytest.mark.parametrize("size", [0, -1, 1.0, True, U64 + 1])
def test_sizes_are_checked(env: Any, size: Any) -> None:
    for call in (env.batch_generator, lambda size: env.generate_to_file(size, io.StringIO())):
        with pytest.raises(InvalidArgument, match="size"):
            call(size)


def test_more_than_memory_is_refused() -> None:
    env: Any = gymnasium.make("meta-lm-v0", V=2**30, L=2**34)
    with pytest.raises(LimitExceeded, match="batch_size"):
        env.batch_generator(2**31 - 1)


def test_a_batch_may_be_larger_than_a_service_sends_at_once(server_url: str) -> None:
    arguments: dict[str, Any] = {"L": 2**20, "seed": 1, "n": 2}
    env: Any = gymnasium.make("meta-lm-v0", url=server_url, **arguments)
    with MetaLMClient(server_url) as client, pytest.raises(LimitExceeded):
        client.batch(batch_size=40, **arguments)
    x, y = env.batch_generator(40)
    env.close()
    last = MetaLMClient().sample(39, **arguments)
    assert np.array_equal(x[39], last.x[0])
    assert np.array_equal(y[39], last.y[0])


class Full(io.StringIO):
    """A text stream with room for one write only."""

    def write(self, text: str) -> int:
        if self.tell():
            raise OSError("no space left")
        return super().write(text)


def test_a_stream_that_fails_has_what_the_cursor_says() -> None:
    env: Any = gymnasium.make("meta-lm-v0", **SMALL, seed=3)
    stream = Full()
    with pytest.raises(OSError, match="no space"):
        env.generate_to_file(100, stream)
    assert env.position == stream.getvalue().count("\n") == 32


def test_splits_languages_and_profiles_are_those_of_the_client(server_url: str) -> None:
    other: dict[str, Any] = {
        "split": "validation",
        "language": 5,
        "profile": "metagym",
        "mask_ratio": 1.0,
    }
    env: Any = gymnasium.make("metalm.gym:meta-lm-v0", **SMALL, **other, url=server_url, seed=9)
    x, y = env.batch_generator(3)
    env.close()
    expected = samples(0, 3, seed=9, **other)
    assert np.array_equal(x, expected[0])
    assert np.array_equal(y, expected[1])

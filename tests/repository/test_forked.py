"""What is forked for tests is what users start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from metalm import MetaLMClient
from tests import command, forked
from tests.service_process import Service

COMMANDS = [
    ["sample", "-L", "5", "--seed", "1"],
    ["generate", "-L", "5", "--samples", "2", "--seed", "1", "--format", "npz"],
    ["generate", "--output", "/nowhere/file", "--seed", "1"],
    ["sample", "-V", "1"],
    ["--version"],
    ["nonsense"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_says_and_returns_the_same(arguments: list[str]) -> None:
    mine = forked.run(*arguments, check=False)
    theirs = command.run(*arguments, check=False)
    assert mine.stdout == theirs.stdout
    assert mine.stderr == theirs.stderr
    assert mine.returncode == theirs.returncode


def test_it_is_where_and_with_what_its_caller_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALM_LOG_FORMAT", "json")
    forked.run("generate", "-L", "5", "--samples", "2", "--seed", "1", "--output", "here")
    assert os.listdir(tmp_path) == ["here"]
    with forked.running(METALM_MAX_REQUEST_SAMPLES="7") as service:
        assert samples_taken(service) == 7
        assert service.stop() == service.process.poll() == 0
    assert [line for line in service.lines if line.startswith("{")]
    # What one process is told, the next one does not know.
    monkeypatch.delenv("METALM_LOG_FORMAT")
    with forked.running() as service:
        assert samples_taken(service) > 7
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    assert not [line for line in service.lines if line.startswith("{")]


def samples_taken(service: Service) -> int:
    with MetaLMClient(service.http) as client:
        limits = client.describe().limits
    assert limits is not None
    return limits.max_request_samples

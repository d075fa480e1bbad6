from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.service_process import Service, running

hypothesis.settings.register_profile("metalm", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("metalm")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`: more than there are cores where these are few, as many tests wait."""
    cores = len(os.sched_getaffinity(0))
    return max(cores, min(2 * cores, 8))


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """A running service, shared: tests leave it as they found it."""
    with running() as process:
        yield process


@pytest.fixture(params=["inprocess", "http", "grpc"])
def url(request: pytest.FixtureRequest) -> str:
    """Each door in turn: in process, and the doors of a real server."""
    return "inprocess:" if request.param == "inprocess" else door_of(request, request.param)


@pytest.fixture(params=["http", "grpc"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Each door of a real server in turn."""
    return door_of(request, request.param)


@pytest.fixture
def http_url(request: pytest.FixtureRequest) -> str:
    """The HTTP door of the server that `server_url` names."""
    return door_of(request, "http")


def door_of(request: pytest.FixtureRequest, scheme: str) -> str:
    """METALM_TEST_URLS ("http://… grpc://…") names a server that runs elsewhere, say in a
    container."""
    for given in os.environ.get("METALM_TEST_URLS", "").split():
        if given.startswith(scheme):
            return given
    running_service: Service = request.getfixturevalue("service")
    return running_service.http if scheme == "http" else running_service.grpc

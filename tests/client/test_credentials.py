"""A token and certificates on their way through all that a client does, and to nobody else."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import metalm.gym
from metalm import InvalidArgument, MetaLMClient, MetaLMError, Unauthenticated
from tests.certificates import Authority
from tests.forked import run, running
from tests.proxy import Proxy
from tests.service_process import Service

TOKEN = "trainer-0123456789abcdef"
OTHER = "another-0123456789abcdef"
RUN: dict[str, Any] = {"L": 64, "seed": 5, "batch_size": 4}
DOORS = pytest.mark.parametrize("door", ["http", "grpc"])


@dataclass
class Guarded:
    """A service that wants a token and a certificate, and who has both."""

    service: Service
    credentials: dict[str, Any]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    flags = [*authority.flags(), "--tls-client-ca", authority.ca]
    mine = authority.issue("trainer@example.org")
    with running(*flags, METALM_TOKENS=f"trainer {TOKEN}") as service:
        credentials = {"token": TOKEN, "ca": authority.ca, "cert": mine.cert, "key": mine.key}
        yield Guarded(service, credentials)


def digest() -> int:
    with MetaLMClient() as twin:
        return twin.batch(**RUN).digest


def send_digest(client: MetaLMClient, end: Connection) -> None:
    end.send(client.batch(**RUN).digest)
    end.close()


@DOORS
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_shows_what_its_parent_did(guarded: Guarded, door: str) -> None:
    """After gRPC was used, through a process of its own."""
    with MetaLMClient(getattr(guarded.service, door), **guarded.credentials) as client:
        assert client.batch(**RUN).digest == digest()
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(
            target=send_digest, args=(client, there)
        )
        child.start()
        assert here.poll(60)
        assert here.recv() == digest()
        child.join(30)


@DOORS
def test_a_pickled_client_shows_what_it_did_before(guarded: Guarded, door: str) -> None:
    with MetaLMClient(getattr(guarded.service, door), **guarded.credentials) as client:
        with pickle.loads(pickle.dumps(client)) as other:
            assert other.batch(**RUN).digest == digest()


@DOORS
def test_failover_and_probes_show_it_too(door: str) -> None:
    """Connections are reset under way, one address after the other."""
    with running(METALM_TOKENS=f"trainer {TOKEN}") as service:
        url = getattr(service, door)
        with Proxy(url) as one, Proxy(url) as other:
            with MetaLMClient([one.url, other.url], token=TOKEN, timeout_s=60) as client:
                digests = []
                for batch in client.batches(**RUN, count=60, prefetch_bytes=0):
                    digests.append(batch.digest)
                    if len(digests) in (10, 30):
                        (one, other)[len(digests) == 30].reset_all()
                twin = MetaLMClient().batches(**RUN, count=60)
                assert digests == [batch.digest for batch in twin]


def shown_by(things: list[object]) -> str:
    return " ".join(repr(thing) + str(thing) for thing in things)


@DOORS
def test_a_token_is_nowhere_to_be_read(
    door: str, caplog: pytest.LogCaptureFixture, service: Service
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[object] = []
    with running(METALM_TOKENS=f"other {OTHER}") as strict:
        for url in (getattr(strict, door), f"{door}://127.0.0.1:9", service.http):
            with MetaLMClient(url, token=TOKEN, timeout_s=0.5) as client:
                shown += [client, vars(client), client._credentials]
                try:
                    shown.append(client.batches(**RUN, count=2))
                    shown.append(client.batch(**RUN))
                except MetaLMError as error:
                    cause: BaseException | None = error
                    while cause is not None:
                        shown.append(cause)
                        cause = cause.__cause__
        printed = "".join(strict.lines)
    assert TOKEN not in shown_by(shown)
    assert TOKEN not in caplog.text
    assert TOKEN not in printed


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:8000",
        "grpc://192.0.2.1:50051",
        "http://service:8000",
        "http://[2001:db8::1]:80",
    ],
)
def test_a_token_does_not_leave_the_machine_in_plain_text(url: str) -> None:
    with pytest.raises(InvalidArgument, match="https:// or grpcs://") as caught:
        MetaLMClient(url, token=TOKEN)
    assert TOKEN not in str(caught.value)
    MetaLMClient(url, token=TOKEN, allow_plaintext_token=True).close()
    MetaLMClient(url).close()
    for local in ("http://127.0.0.1:1", "grpc://localhost:1", "http://[::1]:1", "inprocess:"):
        MetaLMClient(local, token=TOKEN).close()
    with pytest.raises(InvalidArgument, match="https://"):
        MetaLMClient(["http://127.0.0.1:1", url], token=TOKEN)


@DOORS
def test_a_token_in_a_file_may_change(guarded: Guarded, door: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    credentials = {**guarded.credentials, "token": file}
    with MetaLMClient(getattr(guarded.service, door), timeout_s=60, **credentials) as client:
        assert client.batch(**RUN).digest == digest()
        file.write_text(OTHER)
        with pytest.raises(Unauthenticated):
            client.batch(**RUN)
        file.unlink()
        with pytest.raises(Unauthenticated, match=r"token.*No such file"):
            client.batch(**RUN)
        file.write_text(TOKEN)
        assert client.batch(**RUN).digest == digest()


@pytest.mark.parametrize(
    ("credentials", "named"),
    [
        ({"token": ""}, "token"),
        ({"token": "two words"}, "token"),
        ({"token": "line\nbreak"}, "token"),
        ({"token": 5}, "token"),
        ({"token": b"two words"}, "token"),
        ({"token": Path("/nowhere/token")}, "/nowhere/token"),
        ({"ca": "/nowhere/ca"}, "/nowhere/ca"),
        ({"ca": __file__}, "PEM"),
        ({"cert": "/nowhere/cert"}, "/nowhere/cert"),
        ({"cert": __file__}, "PEM"),
        ({"key": __file__}, "cert"),
        ({"ca": 5}, "ca"),
    ],
    ids=str,
)
def test_wrong_credentials_are_told_at_once(credentials: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named) as caught:
        MetaLMClient("https://127.0.0.1:1", **credentials)
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:s3cr3t@host:1",
        "grpcs://user:s3cr3t@host:1",
        "http://host:1/?token=s3cr3t",
        "http://host:1/#s3cr3t",
        "http://user:s3cr3t@host:port",
    ],
)
def test_a_secret_in_a_url_is_not_shown(url: str) -> None:
    with pytest.raises(InvalidArgument, match="url") as caught:
        MetaLMClient(url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("door", ["https", "grpcs"])
def test_files_that_have_gone_are_told(door: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(Path(Authority(tmp_path / "authority").ca).read_bytes())
    with MetaLMClient(f"{door}://127.0.0.1:9", ca=file, timeout_s=5) as client:
        file.unlink()
        with pytest.raises(Unauthenticated, match="PEM certificates"):
            client.batch(**RUN)


@DOORS
def test_certificates_may_be_renewed(door: str, tmp_path: Path) -> None:
    """The service's and the client's, by another authority: the client goes on."""
    names = ("ca", "cert", "key", "service-cert", "service-key")
    files = {name: tmp_path / f"{name}.pem" for name in names}

    def renew(name: str) -> None:
        authority = Authority(tmp_path / name)
        mine, theirs = authority.issue(name), authority.issue("127.0.0.1")
        sources = (authority.ca, mine.cert, mine.key, theirs.cert, theirs.key)
        for file, source in zip(files.values(), sources, strict=True):
            file.write_bytes(Path(source).read_bytes())

    renew("one")
    shown = ("--tls-cert", str(files["service-cert"]), "--tls-key", str(files["service-key"]))
    mine: dict[str, Any] = {name: files[name] for name in ("ca", "cert", "key")}
    with running(*shown, "--tls-client-ca", str(files["ca"])) as service:
        with Proxy(getattr(service, door)) as proxy:
            with MetaLMClient(proxy.url, timeout_s=30, **mine) as client:
                assert client.batch(**RUN).digest == digest()
                renew("other")
                proxy.reset_all()
                assert client.batch(**RUN).digest == digest()
                # What is no certificate changes nothing.
                files["cert"].write_text("half a certificate")
                assert client.batch(**RUN).digest == digest()


@DOORS
def test_the_environment_shows_it(guarded: Guarded, door: str) -> None:
    arguments = {**guarded.credentials, "url": getattr(guarded.service, door), **RUN}
    del arguments["batch_size"]
    expected = MetaLMClient().sample(L=64, seed=5).x[0].tolist()
    env = gymnasium.make("meta-lm-v0", **arguments)
    assert env.get_wrapper_attr("data_generator")()[0].tolist() == expected
    assert TOKEN not in repr(env.spec)
    assert TOKEN not in repr(env)
    env.close()
    envs = gymnasium.make_vec("meta-lm-v0", num_envs=2, **arguments)
    assert envs.reset()[0][0] == expected[0]
    assert TOKEN not in repr(envs.spec)
    envs.close()
    with pytest.raises(InvalidArgument, match="token"):
        metalm.gym.MetaLMEnv(client=MetaLMClient(), token=TOKEN)


def command(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Its exit status, and what it prints."""
    done = run(*arguments, check=False, **environment)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@DOORS
def test_the_commands_show_it(guarded: Guarded, door: str, tmp_path: Path) -> None:
    given = guarded.credentials
    (tmp_path / "token").write_text(TOKEN)
    asked = ["sample", "-L", "8", "--seed", "1", "--url", getattr(guarded.service, door)]
    shown = ["--ca", given["ca"], "--cert", given["cert"], "--key", given["key"]]
    expected = command(*asked[:5])
    assert len(expected[1]) > 8
    assert command(*asked, *shown, METALM_TOKEN=TOKEN) == expected == (0, expected[1], "")
    file = ["--token-file", str(tmp_path / "token")]
    assert command(*asked, *shown, *file, METALM_TOKEN=OTHER) == expected
    began = time.monotonic()
    for environment in ({}, {"METALM_TOKEN": OTHER}):
        status, told, errors = command(*asked, *shown, "--timeout-s", "120", **environment)
        assert (status, told) == (1, "")
        assert "token" in errors
        assert OTHER not in errors
    _, _, errors = command(*asked, "--timeout-s", "120", METALM_TOKEN=TOKEN)
    assert "cannot be trusted" in errors
    assert len(errors.splitlines()) == 1
    assert time.monotonic() - began < 100
    status, _, errors = command("sample", "--url", "http://192.0.2.1:80", METALM_TOKEN=TOKEN)
    assert status == 2
    assert "allow_plaintext_token" in errors
    assert TOKEN not in errors


def test_relays_are_not_told_in_their_arguments(guarded: Guarded) -> None:
    """What a process was started with, others can read."""
    program = f"""
import os, pathlib
from metalm import MetaLMClient
client = MetaLMClient({guarded.service.grpc!r}, **{guarded.credentials!r})
client.batch(L=5, seed=1)
pid = os.fork()
if pid == 0:
    client.batch(L=5, seed=1)
    for task in pathlib.Path('/proc/self/task').iterdir():
        for child in (task / 'children').read_text().split():
            place = pathlib.Path('/proc') / child
            found = (place / 'cmdline').read_bytes() + (place / 'environ').read_bytes()
            print(found, flush=True)
    client.close()
    os._exit(0)
os.waitpid(pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert "metalm.transports.relay" in done.stdout, done.stderr
    assert TOKEN not in done.stdout

"""TLS at both doors, with certificates made here."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc

from metalm import MetaLMClient, MetaLMError, Unauthenticated
from metalm_proto.errors import InternalError
from tests.certificates import Authority, Issued
from tests.forked import metalm, running
from tests.proxy import Proxy
from tests.service_process import Service

PATIENCE_S = 60
"""Of clients that are to be refused, who must not use it up."""
SOON_S = 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[Service]:
    with running(*authority.flags()) as service:
        yield service


@pytest.fixture(scope="module")
def mutual(authority: Authority) -> Iterator[Service]:
    """A service that asks its clients for certificates."""
    with running(*authority.flags(), "--tls-client-ca", authority.ca) as service:
        yield service


def sample(url: str, **credentials: Any) -> list[int]:
    with MetaLMClient(url, timeout_s=PATIENCE_S, **credentials) as client:
        tokens: list[int] = client.sample(L=8, seed=1).x[0].tolist()
        return tokens


def refused(url: str, kind: type[MetaLMError] = Unauthenticated, **credentials: Any) -> str:
    """What is said by a client that gives up at once."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        sample(url, **credentials)
    assert time.monotonic() - began < SOON_S
    return str(caught.value)


DOORS = pytest.mark.parametrize("door", ["http", "grpc"])


@DOORS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_same_bytes_come_through_tls(
    secure: Service, authority: Authority, door: str, host: str
) -> None:
    url = getattr(secure, door).replace("127.0.0.1", host)
    assert url.startswith(f"{door}s://")
    arguments: dict[str, Any] = {"seed": 3, "count": 5, "L": 2**14}
    with MetaLMClient(url, ca=authority.ca) as client, MetaLMClient() as twin:
        for mine, theirs in zip(
            client.batches(**arguments), twin.batches(**arguments), strict=True
        ):
            assert (mine.digest, mine.x.tobytes()) == (theirs.digest, theirs.x.tobytes())
        assert client.describe().version == twin.describe().version


@DOORS
def test_a_server_of_a_strange_authority_is_not_trusted(
    secure: Service, stranger: Authority, door: str
) -> None:
    for ca in (None, stranger.ca):
        said = refused(getattr(secure, door), ca=ca)
        assert "cannot be trusted" in said
        assert "issuer" in said


@DOORS
def test_a_server_of_another_name_is_not_trusted(authority: Authority, door: str) -> None:
    with running(*authority.flags("elsewhere.example")) as service:
        said = refused(getattr(service, door), ca=authority.ca)
        assert "not valid for '127.0.0.1'" in said
        said = refused(getattr(service, door).replace("127.0.0.1", "localhost"), ca=authority.ca)
        assert "not valid for 'localhost'" in said


@DOORS
def test_an_expired_certificate_is_not_trusted(authority: Authority, door: str) -> None:
    with running(*authority.flags(lives_s=-60)) as service:
        assert "expired" in refused(getattr(service, door), ca=authority.ca)


@DOORS
def test_clients_of_a_mutual_service_show_their_certificate(
    mutual: Service, authority: Authority, stranger: Authority, door: str
) -> None:
    url, client = getattr(mutual, door), authority.issue("trainer@example.org")
    expected = sample("inprocess:")
    assert sample(url, ca=authority.ca, cert=client.cert, key=client.key) == expected
    assert sample(url, ca=authority.ca, cert=client.both) == expected
    said = refused(url, ca=authority.ca)
    assert "this client's certificate" in said
    other = stranger.issue("trainer@example.org")
    assert "this client's certificate" in refused(url, ca=authority.ca, cert=other.both)
    old = authority.issue("trainer@example.org", lives_s=-60)
    assert "this client's certificate" in refused(url, ca=authority.ca, cert=old.both)


@DOORS
def test_tls_where_there_is_none_is_told(service: Service, door: str) -> None:
    url = getattr(service, door).replace("://", "s://")
    assert "does not speak TLS" in refused(url, InternalError)


@DOORS
def test_another_replica_stands_in_for_one_that_cannot_be_trusted(
    secure: Service, authority: Authority, door: str
) -> None:
    with running(*authority.flags(lives_s=-60)) as expired:
        urls = [getattr(expired, door), getattr(secure, door)]
        with MetaLMClient(urls, ca=authority.ca, timeout_s=PATIENCE_S) as client:
            for index in range(8):
                assert client.sample(index, L=8, seed=1).first == index


@DOORS
def test_damage_on_the_way_is_found_and_healed(
    secure: Service, authority: Authority, door: str
) -> None:
    with Proxy(getattr(secure, door)) as proxy:
        with MetaLMClient(proxy.url, ca=authority.ca, timeout_s=PATIENCE_S) as client:
            digests = []
            for batch in client.batches(seed=1, L=2**12, count=120, prefetch_bytes=0):
                digests.append(batch.digest)
                if batch.first % 320 == 0:
                    proxy.arm("flip", 2000)
        twin = MetaLMClient().batches(seed=1, L=2**12, count=120)
        assert digests == [batch.digest for batch in twin]
        assert proxy.hits["flip"] >= 3


# A ClientHello of TLS 1.1 (RFC 4346, 7.4.1.2) with two ciphers.
OLD_HELLO = bytes.fromhex("160301002f0100002b0302" + 32 * "5a" + "000004c009c0130100")


def test_old_versions_of_tls_are_refused(secure: Service) -> None:
    answers = []
    for url in (secure.http, secure.grpc):
        host, port = url.partition("://")[2].split(":")
        with socket.create_connection((host, int(port)), 20) as connection:
            connection.sendall(OLD_HELLO)
            answers.append(connection.recv(1000))
    assert answers[0][:1] == b"\x15"
    assert answers[0][-2:] == b"\x02\x46"  # fatal, protocol_version
    assert answers[1][:1] != b"\x16"


def test_a_handshake_must_arrive_in_time(authority: Authority) -> None:
    with running(*authority.flags(), "--request-timeout-s", "1") as service:
        for url in (service.http, service.grpc):
            host, port = url.partition("://")[2].split(":")
            # Less than asyncio's own minute, and than the time that the socket is given.
            with socket.create_connection((host, int(port)), 30) as connection:
                connection.sendall(OLD_HELLO[:20])
                assert connection.recv(10) == b""


def put(issued: Issued, place: Path) -> None:
    """Puts the files of a certificate in the place of others, in the worst order."""
    shutil.copy(issued.cert, place / "new")
    os.replace(place / "new", place / "cert")
    time.sleep(0.05)
    shutil.copy(issued.key, place / "new")
    os.replace(place / "new", place / "key")


def test_new_certificates_are_used_without_a_restart(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    put(authority.issue("127.0.0.1"), tmp_path)
    shutil.copy(authority.ca, tmp_path / "clients")
    mine, theirs = authority.issue("one@example.org").both, stranger.issue("two@example.org").both
    flags = [
        "--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key"),
        "--tls-client-ca", str(tmp_path / "clients"),
    ]  # fmt: skip
    with running(*flags) as service:
        for url in (service.http, service.grpc):
            sample(url, ca=authority.ca, cert=mine)
            refused(url, ca=authority.ca, cert=theirs)
        with MetaLMClient(service.grpc, ca=authority.ca, cert=mine) as connected:
            connected.sample(L=5, seed=1)
            put(stranger.issue("127.0.0.1"), tmp_path)
            shutil.copy(stranger.ca, tmp_path / "clients")
            for url in (service.http, service.grpc):
                assert len(sample(url, ca=stranger.ca, cert=theirs)) == 8
                refused(url, ca=authority.ca, cert=mine)
                refused(url, ca=stranger.ca, cert=mine)
            # What is connected stays so.
            connected.sample(L=5, seed=1)
        (tmp_path / "key").write_text("no key")
        for url in (service.http, service.grpc):
            assert len(sample(url, ca=stranger.ca, cert=theirs)) == 8
    assert "stay as they were" in "".join(service.lines)


def test_probes_on_a_port_of_their_own_are_plain(authority: Authority) -> None:
    with running(*authority.flags(), "--admin-port", "0") as service:
        for path in ("/healthz", "/readyz"):
            assert urllib3.request("GET", service.admin + path, retries=False).status == 200
        assert urllib3.request("GET", f"{service.admin}/sample", retries=False).status == 404
        answer = urllib3.request("GET", f"{service.admin}/metrics", retries=False)
        assert b"metalm_requests_total" in answer.data
        with urllib3.PoolManager(ca_certs=authority.ca) as pool:
            assert pool.request("GET", f"{service.http}/metrics").status == 404
        credentials = grpc.ssl_channel_credentials(Path(authority.ca).read_bytes())
        with grpc.secure_channel(service.grpc.partition("://")[2], credentials) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert service.stop() == 0


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"cert": "1.cert"}, ["tls_key"]),
        ({"key": "1.key"}, ["tls_cert"]),
        ({"client-ca": "ca.pem"}, ["tls_cert", "tls_client_ca"]),
        ({"cert": "1.cert", "key": "nowhere"}, ["tls_key", "nowhere", "No such file"]),
        ({"cert": "nowhere", "key": "1.key"}, ["tls_cert", "nowhere", "No such file"]),
        ({"cert": "1.cert", "key": "2.key"}, ["tls_key", "2.key", "1.cert"]),
        ({"cert": "1.key", "key": "1.key"}, ["tls_cert", "1.key", "PEM"]),
        ({"cert": "1.cert", "key": "encrypted"}, ["tls_key", "encrypted"]),
        ({"cert": "", "key": "1.key"}, ["tls_cert", "not empty"]),
        ({"cert": "1.cert", "key": "1.key", "client-ca": "1.key"}, ["tls_client_ca", "1.key"]),
    ],
    ids=str,
)
def test_broken_files_end_the_start_with_one_line(files: dict[str, str], named: list[str]) -> None:
    with tempfile.TemporaryDirectory() as short:  # what is long is shown in part
        errors = start_with(Path(short), files)
    for part in named:
        assert part in errors


def start_with(tmp_path: Path, files: dict[str, str]) -> str:
    """What a service says that cannot start."""
    authority = Authority(tmp_path)
    authority.issue("localhost")
    authority.issue("localhost")
    (tmp_path / "encrypted").write_bytes(encrypted(tmp_path / "1.key"))
    flags = [
        part
        for name, file in files.items()
        for part in (f"--tls-{name}", str(tmp_path / file) if file else "")
    ]
    process = metalm("serve", "--port", "0", "--grpc-port", "0", *flags)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output == ""
    assert len(errors.splitlines()) == 1, errors
    return errors


def encrypted(key: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )

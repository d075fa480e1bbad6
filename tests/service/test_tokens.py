"""Who may ask: bearer tokens at both doors, and what is open to everybody."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from metalm import MetaLMClient, Unauthenticated
from metalm_proto.v1 import metalm_pb2 as pb
from metalm_proto.v1 import metalm_pb2_grpc
from metalm_service.tokens import Tokens
from tests.forked import metalm, running
from tests.service_process import Service

ALICE, BOB, NEW = "alice-0123456789abcdef", "bob+0123456789/abcdef==", "new.0123456789~abcdef"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Service]:
    with running(METALM_TOKENS=f"alice {ALICE}, bob {BOB}") as service:
        yield service


def get(url: str, *tokens: str) -> urllib3.BaseHTTPResponse:
    headers = urllib3.HTTPHeaderDict()
    for token in tokens:
        headers.add("Authorization", token)
    return urllib3.request("GET", url, headers=headers, retries=False)


WRONG = [
    "",
    "Bearer",
    f"Bearer {ALICE[:-1]}",
    f"Bearer {ALICE}x",
    f"Basic {ALICE}",
    ALICE,
    "Bearer \xff",
]


@pytest.mark.parametrize(
    "path", ["/sample?L=5", "/batches?L=5&stop=4", "/describe", "/version", "/metrics"]
)
def test_http_wants_a_token(guarded: Service, path: str) -> None:
    answer = get(guarded.http + path)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["reason"] == "UNAUTHENTICATED"
    for wrong in WRONG:
        answer = get(guarded.http + path, wrong)
        assert answer.status == 401, wrong
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        assert answer.json()["reason"] == "UNAUTHENTICATED"
        assert ALICE[:-1] not in answer.data.decode()
    assert get(guarded.http + path, f"Bearer {ALICE}", f"Bearer {BOB}").status == 401
    for right in (f"Bearer {ALICE}", f"bearer {BOB}", f"BEARER  {BOB}"):
        assert get(guarded.http + path, right).status == 200


def test_http_asks_for_the_token_before_it_looks_at_the_question(guarded: Service) -> None:
    assert get(f"{guarded.http}/sample?V=1").status == 401
    assert get(f"{guarded.http}/sample?V=1", f"Bearer {ALICE}").status == 400


def test_what_is_guarded_is_for_private_caches_only(guarded: Service, service: Service) -> None:
    path = "/sample?L=5&seed=1"
    answer = get(guarded.http + path, f"Bearer {ALICE}")
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert get(service.http + path).headers["Cache-Control"].startswith("public")


def test_probes_and_the_page_are_open(guarded: Service) -> None:
    for path in ("/healthz", "/readyz", "/", "/page/app.js", "/docs", "/openapi.json"):
        assert get(guarded.http + path).status == 200
    document = get(f"{guarded.http}/openapi.json").json()
    for path in ("/sample", "/batches", "/describe", "/version", "/metrics"):
        operation = document["paths"][path]["get"]
        assert operation["security"] == [{"HTTPBearer": []}]
        assert operation["responses"]["401"]["description"].endswith("one of UNAUTHENTICATED")
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_grpc_wants_a_token(guarded: Service) -> None:
    with grpc.insecure_channel(guarded.grpc.removeprefix("grpc://")) as channel:
        stub = metalm_pb2_grpc.MetaLMServiceStub(channel)
        calls: list[Any] = [
            lambda **more: stub.Sample(pb.SampleRequest(spec=pb.Spec(vocab_size=-1)), **more),
            lambda **more: list(stub.StreamBatches(pb.StreamBatchesRequest(samples=1), **more)),
            lambda **more: stub.Describe(pb.DescribeRequest(), **more),
            lambda **more: list(
                reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                    iter([reflection_pb2.ServerReflectionRequest(list_services="")]), **more
                )
            ),
        ]
        for call in calls:
            for wrong in (None, *WRONG[1:-1]):
                metadata = () if wrong is None else (("authorization", wrong),)
                with pytest.raises(grpc.RpcError) as caught:
                    call(metadata=metadata, timeout=20)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
                assert ALICE[:-1] not in str(caught.value)
        for call in calls[1:]:
            call(metadata=(("authorization", f"Bearer {BOB}"),), timeout=20)
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_clients_show_their_token(guarded: Service, door: str) -> None:
    url = getattr(guarded, door)
    with MetaLMClient(url, token=ALICE) as client:
        assert client.sample(L=5, seed=1).size == 1
        assert sum(1 for _ in client.batches(L=5, seed=1, count=20)) == 20
        client.describe()
    found = []
    for token in (None, f"{ALICE}x"):
        with MetaLMClient(url, timeout_s=60, token=token) as client:
            for call in (lambda: client.sample(L=5), client.describe):
                with pytest.raises(Unauthenticated) as caught:
                    call()
                found.append(str(caught.value))
    with (
        MetaLMClient(guarded.http, timeout_s=60) as client,
        pytest.raises(Unauthenticated) as caught,
    ):
        client.sample(L=5)
    assert found[0] == found[1] == str(caught.value)
    assert "none of those" in found[2]


def test_work_is_counted_for_the_tokens_name() -> None:
    with running("--log-format", "json", METALM_TOKENS=f"alice {ALICE}") as service:
        for url in (service.http, service.grpc):
            with MetaLMClient(url, token=ALICE) as client:
                client.sample(L=5, seed=1)
            with MetaLMClient(url) as client, pytest.raises(Unauthenticated):
                client.sample(L=5, seed=1)
        assert service.stop() == 0
    calls = [json.loads(line) for line in service.lines if line.startswith("{")]
    found = sorted((c["door"], c["client"], c["outcome"]) for c in calls if "door" in c)
    assert found == [
        (door, client, outcome)
        for door in ("grpc", "http")
        for client, outcome in (("127.0.0.1", "UNAUTHENTICATED"), ("alice", "OK"))
    ]


def test_tokens_change_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "tokens"

    def write(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    def works(token: str) -> list[bool]:
        found = []
        for url in (service.http, service.grpc):
            with MetaLMClient(url, token=token, timeout_s=60) as client:
                try:
                    found.append(client.sample(L=5, seed=1).size == 1)
                except Unauthenticated:
                    found.append(False)
        return found

    write(f"# the trainers'\n\nalice {ALICE}\n")
    with running("--token-file", str(file)) as service:
        assert works(ALICE) == [True, True]
        assert works(NEW) == [False, False]
        write(f"alice {ALICE}\nalice {NEW}\n")
        assert works(ALICE) == works(NEW) == [True, True]
        write(f"alice {NEW}\n")
        assert works(ALICE) == [False, False]
        assert works(NEW) == [True, True]
        for broken in ("", f"alice {NEW} {ALICE}\n", "alice short\n", "\xff\n"):
            write(broken)
            assert works(NEW) == [True, True]
        file.unlink()
        assert works(NEW) == [True, True]
        write(f"bob {BOB}\n")
        assert works(BOB) == [True, True]
        assert works(NEW) == [False, False]
    printed = "".join(service.lines)
    assert "stay as they were" in printed
    for token in (ALICE, BOB, NEW):
        assert token not in printed


def test_a_token_gives_its_name_to_what_is_asked_with_it() -> None:
    tokens = Tokens(given=f"alice {ALICE},alice {NEW},bob {BOB}")
    assert tokens.client([f"Bearer {ALICE}"], "192.0.2.1") == "alice"
    assert tokens.client([f"Bearer {NEW}"], "192.0.2.1") == "alice"
    assert tokens.client([f"Bearer {BOB}"], "192.0.2.1") == "bob"
    assert Tokens().client([], "192.0.2.1") == "192.0.2.1"
    assert ALICE not in repr(vars(tokens))


@pytest.mark.parametrize(
    ("environment", "text", "named"),
    [
        ({"METALM_TOKENS": ""}, None, ["tokens", "not empty"]),
        ({"METALM_TOKENS": " , "}, None, ["METALM_TOKENS"]),
        ({"METALM_TOKENS": "secretsecretsecret"}, None, ["METALM_TOKENS", "entry 1"]),
        (
            {"METALM_TOKENS": "a secretsecretsecret,b short"},
            None,
            ["METALM_TOKENS", "entry 2", "16"],
        ),
        (
            {"METALM_TOKENS": "a secretsecretsecret,b secretsecretsecret"},
            None,
            ["entry 2", "its own"],
        ),
        ({}, "", ["token_file", "NAME TOKEN"]),
        ({}, "# nobody\n", ["token_file", "NAME TOKEN"]),
        ({}, "a secretsecretsecret\nb\n", ["token_file", "entry 2"]),
        (
            {"METALM_TOKEN_FILE": "/nowhere/tokens"},
            None,
            ["token_file", "/nowhere/tokens", "No such"],
        ),
        ({"METALM_TOKEN_FILE": ""}, None, ["token_file", "not empty"]),
        ({"METALM_ADMIN_PORT": "x"}, None, ["METALM_ADMIN_PORT", "65535"]),
        ({"METALM_ADMIN_PORT": "8000"}, None, ["admin_port", "8000"]),
        ({"METALM_DOCS": "maybe"}, None, ["METALM_DOCS", "true or false"]),
        ({"METALM_REFLECTION": "2"}, None, ["METALM_REFLECTION", "true or false"]),
    ],
    ids=str,
)
def test_broken_settings_end_the_start_with_one_line(
    tmp_path: Path, environment: dict[str, str], text: str | None, named: list[str]
) -> None:
    flags = []
    if text is not None:
        (tmp_path / "tokens").write_text(text)
        flags = ["--token-file", str(tmp_path / "tokens")]
    process = metalm("serve", *flags, **environment)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output == ""
    assert len(errors.splitlines()) == 1, errors
    assert "secret" not in errors
    for part in named:
        assert part in errors


def test_pages_and_reflection_can_be_switched_off() -> None:
    with running("--page", "false", "--docs", "false", "--reflection", "false") as service:
        for path in (
            "/",
            "/page/app.js",
            "/docs",
            "/docs/start.js",
            "/docs/static/swagger-ui.css",
            "/openapi.json",
        ):
            assert get(service.http + path).status == 404
        assert get(f"{service.http}/sample?L=5").status == 200
        with grpc.insecure_channel(service.grpc.removeprefix("grpc://")) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.ServerReflectionInfo(iter([request]), timeout=20))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_every_answer_tells_browsers_what_it_is_not(service: Service) -> None:
    for path in (
        "/",
        "/page/app.js",
        "/docs",
        "/docs/start.js",
        "/sample?L=5",
        "/sample?V=1",
        "/nowhere",
        "/healthz",
    ):
        headers = get(service.http + path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert len(headers.getlist("Content-Security-Policy")) == 1
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in headers


def test_so_do_refusals_without_a_request(service: Service) -> None:
    host, port = service.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"no request\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"content-security-policy: default-src 'none'") == 1
    assert b"nosniff" in answer


def test_the_page_has_nothing_that_its_policy_forbids(service: Service) -> None:
    page = get(f"{service.http}/docs").data.decode()
    assert "<style" not in page
    assert " style=" not in page
    for script in page.split("<script")[1:]:
        assert script.startswith(' src="docs/')
        assert script.partition(">")[2].startswith("</script>")
    assert "javascript" in get(f"{service.http}/docs/start.js").headers["Content-Type"]

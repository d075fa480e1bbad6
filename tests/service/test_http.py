"""The HTTP door as any client sees it."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any
from urllib.parse import urljoin

import numpy as np
import pytest
import urllib3

from metalm import MetaLMClient
from metalm_proto import formats, protobuf, wire
from metalm_proto.v1 import metalm_pb2 as pb
from tests.service_process import Service

SMALL = "V=4&n=2&l=3&e=0.2&L=12&seed=0"


@pytest.fixture(scope="module")
def pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(retries=False, timeout=20)


class Get:
    """GET against the running service."""

    def __init__(self, service: Service, pool: urllib3.PoolManager) -> None:
        self._base = service.http
        self._pool = pool

    def __call__(self, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._pool.request("GET", self._base + path, headers=named)


@pytest.fixture
def get(service: Service, pool: urllib3.PoolManager) -> Get:
    return Get(service, pool)


def test_sample_is_readable_json(get: Get) -> None:
    answer = get(f"/sample?{SMALL}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    sample = answer.json()
    assert sample["generator"] == "metalm-1"
    assert sample["spec"] == {
        "V": 4, "n": 2, "l": 3.0, "e": 0.2, "L": 12,
        "mask_ratio": 0.3, "profile": "metalm", "language": None,
    }  # fmt: skip
    assert (sample["seed"], sample["split"], sample["index"]) == (0, "train", 0)
    assert sample["ids"] == {"mask": 0, "separator": 5, "vocabulary": 6}
    assert sample["x"] == [2, 2, 1, 5, 3, 2, 0, 2, 3, 3, 3, 5]
    assert sample["y"] == [2, 1, 5, 3, 2, 4, 1, 3, 3, 3, 5, 2]
    # A line a field: x is found by the eye and by grep.
    assert '\n  "x": [2, 2, 1, 5,' in answer.data.decode()


def test_the_openapi_example_is_what_the_service_answers(get: Get) -> None:
    document = get("/openapi.json").json()
    operation = document["paths"]["/sample"]["get"]
    query = "&".join(
        f"{parameter['name']}={parameter['example']}"
        for parameter in operation["parameters"]
        if "example" in parameter
    )
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    answer = get(f"/sample?{query}").json()
    # OpenAPI documents hold no nulls.
    assert answer["spec"].pop("language") is None
    assert answer == example


def test_a_drawn_seed_is_told_and_repeats_the_answer(get: Get) -> None:
    first = get("/sample?V=64&n=10")
    drawn = first.json()
    assert first.headers["Cache-Control"] == "no-store"
    assert drawn["seed"] != get("/sample?V=64&n=10").json()["seed"]
    assert get(f"/sample?V=64&n=10&seed={drawn['seed']}").json() == drawn
    # Whole in every JSON reader.
    assert drawn["seed"] < 2**53


def test_provenance_is_added_on_request(get: Get) -> None:
    sample = get(f"/sample?{SMALL}&provenance=true").json()["provenance"]
    assert sample["languages"] == [[[2, 2, 1], [3, 2, 4, 1, 3, 3, 3]]]
    assert sample["element"] == [0] * 4 + [1] * 8
    assert sample["offset"] == [0, 1, 2, 3, *range(8)]
    assert sample["corruption"] == [0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0]
    assert sample["exposure"] == [0] * 12


@pytest.mark.parametrize(
    ("accept", "form", "media_type"),
    [
        ("application/json", "json", "application/json"),
        ("text/plain", "text", "text/plain; charset=utf-8"),
        ("application/zip", "npz", "application/zip"),
        ("application/x-protobuf", "protobuf", wire.MEDIA_TYPE),
        ("text/plain;q=0.5, application/x-protobuf", "protobuf", wire.MEDIA_TYPE),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "json", "application/json"),
        ("image/png", "json", "application/json"),
        ("text/plain;q=bad", "json", "application/json"),
    ],
)
def test_accept_and_format_choose_the_form(
    get: Get, accept: str, form: str, media_type: str
) -> None:
    by_header = get(f"/sample?{SMALL}", Accept=accept)
    by_query = get(f"/sample?{SMALL}&format={form}")
    assert by_header.data == by_query.data
    assert by_header.headers["Content-Type"] == by_query.headers["Content-Type"] == media_type
    assert by_header.headers["Vary"] == "Accept"


def test_text_is_metagyms_line(get: Get) -> None:
    text = get(f"/sample?{SMALL}&format=text").data.decode()
    assert text == "2,2\t2,1\t1,5\t5,3\t3,2\t2,4\t0,1\t2,3\t3,3\t3,3\t3,5\t5,2\n"


def test_npz_and_protobuf_hold_the_same_batch(get: Get) -> None:
    batch = MetaLMClient("inprocess:").sample(V=4, n=2, l=3, e=0.2, L=12, seed=0)
    archive = np.load(io.BytesIO(get(f"/sample?{SMALL}&format=npz").data))
    assert np.array_equal(archive["x"], batch.x)
    assert np.array_equal(archive["y"], batch.y)
    assert json.loads(str(archive["metadata"])) == formats.header(batch)
    message = pb.Batch.FromString(get(f"/sample?{SMALL}&format=protobuf").data)
    assert message.x == batch.x.tobytes()
    assert message.digest == batch.digest


def test_batches_are_length_delimited_and_announce_their_length(get: Get) -> None:
    answer = get("/batches?V=300&n=3&l=4&L=50&seed=9&start=127&stop=137&batch_size=4")
    assert answer.headers["Content-Type"] == wire.STREAM_MEDIA_TYPE
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    stream, position, batches = answer.data, 0, []
    while position < len(stream):
        length, position = protobuf.read_varint(stream, position)
        batches.append(pb.Batch.FromString(stream[position : position + length]))
        position += length
    assert [(batch.first, list(batch.shape)) for batch in batches] == [
        (127, [4, 50]),
        (131, [4, 50]),
        (135, [2, 50]),
    ]


def test_ndjson_has_a_batch_a_line(get: Get) -> None:
    answer = get("/batches?L=20&seed=9&stop=5&batch_size=2&format=ndjson")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.data.splitlines()]
    assert [line["first"] for line in lines] == [0, 2, 4]
    twin = MetaLMClient("inprocess:")
    for line in lines:
        batch = twin.batch(line["first"], L=20, seed=9, batch_size=len(line["x"]))
        assert line["x"] == batch.x.tolist()
        assert line["digest"] == f"{batch.digest:016x}"


@pytest.mark.parametrize("path", ["/sample?V=4&L=20&seed=1", "/batches?L=20&stop=3&seed=1"])
def test_seeded_answers_are_immutable(get: Get, path: str) -> None:
    answer = get(path)
    assert "immutable" in answer.headers["Cache-Control"]
    etag = answer.headers["ETag"]
    unchanged = get(path, If_None_Match=f'"other", W/{etag}')
    assert (unchanged.status, unchanged.data) == (304, b"")
    assert unchanged.headers["ETag"] == etag
    assert get(path, If_None_Match='"other"').status == 200
    assert get(path + "&n=3").headers["ETag"] != etag
    # A default spelled out is the same request.
    assert get(path + "&mask_ratio=0.3").headers["ETag"] == etag


def test_forms_do_not_share_an_etag(get: Get) -> None:
    forms = ("json", "text", "npz", "protobuf")
    assert len({get(f"/sample?{SMALL}&format={form}").headers["ETag"] for form in forms}) == 4


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("V=1", "vocab_size (V)", "1"),
        ("V=-1", "vocab_size (V)", "-1"),
        ("vocab_size=1", "vocab_size (V)", "1"),
        ("V=18446744073709551616", "vocab_size (V)", "18446744073709551616"),
        ("V=true", "vocab_size (V)", "true"),
        ("V=5.0", "vocab_size (V)", "5.0"),
        ("V=", "vocab_size (V)", "''"),
        ("n=0", "elements_number (n)", "0"),
        ("l=1e400", "elements_length (l)", "1e400"),
        ("l=nan", "elements_length (l)", "nan"),
        ("e=1", "error_rate (e)", "1"),
        ("e=-Infinity", "error_rate (e)", "-Infinity"),
        ("L=17179869185", "sequence_length (L)", "17179869185"),
        ("mask_ratio=2", "mask_ratio", "2"),
        ("profile=x", "profile", "x"),
        ("split=dev", "split", "dev"),
        ("seed=18446744073709551616", "seed", "18446744073709551616"),
        ("index=-1", "index", "-1"),
        ("format=xml", "format", "'xml'"),
        ("sed=7", "parameter", "'sed'"),
        ("V=4&V=5", "vocab_size (V)", "'5'"),
        ("provenance=maybe", "provenance", "maybe"),
        ("seed=%0A1", "seed", "'\\n1'"),
        ("V=" + "9" * 3000, "vocab_size (V)", "9" * 77 + "..."),
    ],
)
def test_bad_input_is_named(get: Get, query: str, field: str, value: str) -> None:
    answer = get(f"/sample?{query}")
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["reason"] == "INVALID_ARGUMENT"
    assert (problem["field"], problem["value"]) == (field, value)
    assert problem["bound"]
    assert problem["field"] in problem["detail"]
    assert problem["bound"] in problem["detail"]


def test_stop_must_be_given(get: Get) -> None:
    problem = get("/batches?L=5").json()
    assert problem["status"] == 400
    assert problem["field"] == "stop"


def test_an_unknown_generator_is_not_found(get: Get) -> None:
    answer = get("/sample?generator=metalm-2")
    assert answer.status == 404
    assert answer.json()["reason"] == "UNKNOWN_GENERATOR"


@pytest.mark.parametrize(
    "query",
    [
        "L=17179869184&stop=1",
        "n=16777215&l=1048576&provenance=true&stop=1&L=1",
        "stop=2000000&L=1",
        "stop=18446744073709551616&L=1&batch_size=2147483647",
    ],
)
def test_over_a_limit_is_told_apart_from_invalid(get: Get, query: str) -> None:
    answer = get(f"/batches?{query}")
    assert answer.status == 400
    assert answer.json()["reason"] == "LIMIT_EXCEEDED"
    assert "Retry-After" not in answer.headers


def test_other_paths_and_methods_are_problems_too(
    get: Get, service: Service, pool: urllib3.PoolManager
) -> None:
    assert get("/nothing").status == 404
    assert get("/nothing").headers["Content-Type"] == "application/problem+json"
    answer = pool.request("POST", f"{service.http}/sample")
    assert answer.status == 405
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_probes_and_version(get: Get) -> None:
    assert get("/healthz").json() == {"status": "alive"}
    assert get("/readyz").json() == {"status": "ready"}
    assert get("/version").json()["generators"] == ["metalm-1"]
    assert get("/docs").status == 200


def test_describe_tells_ids_of_a_spec(get: Get) -> None:
    answer = get("/describe?V=300").json()
    assert answer["ids"] == {"mask": 0, "separator": 301, "vocabulary": 302}
    assert answer["dtype"] == "uint16"
    assert answer["limits"]["max_message_bytes"] > 0
    assert "ids" not in get("/describe").json()


def test_head_is_get_without_a_body(get: Get, service: Service, pool: urllib3.PoolManager) -> None:
    for path in (
        "/sample?V=64&n=10&seed=1&format=protobuf",
        "/batches?L=20&seed=1&stop=5",
        "/healthz",
        "/describe",
    ):
        head, full = pool.request("HEAD", service.http + path), get(path)
        assert (head.status, head.data) == (200, b"")
        for name in ("Content-Type", "ETag", "Cache-Control"):
            assert head.headers.get(name) == full.headers.get(name), (path, name)
        if path.startswith("/batches"):
            assert int(head.headers["Content-Length"]) == len(full.data)


def test_a_wrong_method_is_told_the_right_ones(service: Service, pool: urllib3.PoolManager) -> None:
    answer = pool.request("DELETE", f"{service.http}/healthz")
    assert answer.status == 405
    assert answer.headers["Allow"] in ("GET", "HEAD", "GET, HEAD")


def test_every_form_tells_where_a_drawn_sample_can_be_had_again(get: Get) -> None:
    for form in ("json", "text", "npz", "protobuf"):
        drawn = get(f"/sample?V=8&L=20&format={form}")
        again = get(drawn.headers["Content-Location"])
        assert again.data == drawn.data
        assert int(again.headers["Content-Length"]) == len(again.data)


def test_any_etag_matches_a_star(get: Get) -> None:
    assert get("/sample?L=20&seed=1", If_None_Match="*").status == 304


def test_answers_about_the_moment_are_not_cached(get: Get) -> None:
    for path in ("/healthz", "/readyz", "/version", "/describe", "/sample?V=1"):
        assert get(path).headers["Cache-Control"] == "no-store"


def test_forms_for_people_have_a_limit_of_their_own(get: Get) -> None:
    """Text is many times its arrays in memory, and holds up everybody while it is made."""
    query = "/batches?L=1048576&seed=1&batch_size=4&stop=4"
    assert get(query).status == 200
    assert get(f"{query}&format=ndjson").json()["reason"] == "LIMIT_EXCEEDED"


def test_the_docs_need_nobody_else(get: Get) -> None:
    page = get("/docs").data.decode()
    sources = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(sources) >= 2
    for source in sources:
        assert "://" not in source
        assert get(urljoin("/docs", source)).status == 200


@pytest.mark.parametrize("name", ["l", "e", "V", "seed", "provenance", "profile"])
def test_long_wrong_values_are_refused_quickly(get: Get, name: str) -> None:
    """A pattern that backtracks would take a minute, and hold up everybody."""
    began = time.monotonic()
    assert get(f"/sample?{name}={'1' * 60_000}x").status == 400
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("form", ["text", "npz"])
def test_provenance_is_not_dropped_in_silence(get: Get, form: str) -> None:
    problem = get(f"/sample?L=20&provenance=true&format={form}").json()
    assert problem["field"] == "provenance"

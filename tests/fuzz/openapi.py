"""The OpenAPI document and the server's answers, by schemathesis.

Who imports this does not import that yet: it takes a second, and each worker of the tests would.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.target import ANSWER_S, Tally, Target

if TYPE_CHECKING:
    import requests
    from schemathesis import GenerationMode

FLAGS = (
    "--max-request-samples", "8", "--max-message-bytes", "262144", "--max-inflight-bytes", "67108864",
)  # fmt: skip
"""Of a server where whatever it takes is cheap: any request that the document allows is asked."""


def openapi(target: Target, cases: int, source: random.Random) -> Tally:
    """Whatever the document allows, and whatever it does not, is answered as it says."""
    import requests
    import schemathesis
    from schemathesis import GenerationMode

    tally = Tally("OpenAPI, by schemathesis")
    schema = schemathesis.openapi.from_url(f"{target.http}/openapi.json")
    found: list[Any] = list(schema.get_all_operations())
    operations = [result.ok() for result in found]
    with requests.Session() as session:
        for operation in operations:
            takes_parameters = bool(list(operation.iter_parameters()))
            for mode in GenerationMode if takes_parameters else [GenerationMode.POSITIVE]:
                share = cases // (2 * len(operations)) if takes_parameters else 2
                _exercise(operation, mode, session, max(2, share), source, tally)
    return tally


def _exercise(
    operation: Any,
    mode: GenerationMode,
    session: requests.Session,
    cases: int,
    source: random.Random,
    tally: Tally,
) -> None:
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi import checks

    told: Counter[str] = Counter()
    conforming = [
        checks.content_type_conformance,
        checks.negative_data_rejection,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.status_code_conformance,
    ]

    @seed(source.getrandbits(32))
    @settings(
        max_examples=cases, database=None, deadline=None, derandomize=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = case.call(session=session, timeout=ANSWER_S)
        status = response.status_code
        tally.count(str(status))
        if status >= 500 and not (status == 503 and response.json().get("reason") == "OVERLOADED"):
            tally.findings.append(f"{case.as_curl_command()}: {status} {response.text[:300]}")
        try:
            case.validate_response(response, checks=conforming)
        except FailureGroup as group:
            for failure in group.exceptions:
                kind = f"{operation.label}: {getattr(failure, 'title', type(failure).__name__)}"
                told[kind] += 1
                if told[kind] <= 2:
                    tally.findings.append(f"{kind}: {failure} {case.as_curl_command()}")

    check()

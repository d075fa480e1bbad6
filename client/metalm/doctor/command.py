"""The command `metalm doctor`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from metalm import flags
from metalm.client import TIMEOUT
from metalm.credentials import Credentials
from metalm.doctor.findings import Finding, Stop, as_json, as_lines, is_well
from metalm.doctor.network import Target, connection, handshake, targets
from metalm.doctor.service import Wanted, service, speed
from metalm.transports import checked_url
from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import Field
from metalm_proto.spec import BATCH_SIZE, SPEC_FIELDS

_PATIENCE = replace(TIMEOUT, default=10.0, doc="seconds of silence after which a check has failed")
_NEED = Field(
    name="need",
    kind=float,
    lower=0,
    upper=1e15,
    doc="tokens a second that the trainer needs; less is wrong",
)
_SECONDS = Field(
    name="seconds",
    kind=float,
    default=2.0,
    lower=0,
    open_lower=True,
    upper=3600,
    doc="how long the speed is measured",
)
_OWN = (BATCH_SIZE, _NEED, _SECONDS, _PATIENCE)


def add_doctor_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("urls", metavar="URL", nargs="+", help="as a trainer is given them")
    for field in (*SPEC_FIELDS, *_OWN):
        flags.add(parser, field)
    flags.add_credentials(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def doctor(options: argparse.Namespace) -> int:
    """Prints what it finds; 0 if nothing is wrong, else 1."""
    wanted = Wanted(
        flags.spec(options), flags.parsed(BATCH_SIZE, options), flags.parsed(_NEED, options)
    )
    findings: list[Finding] = []

    def noted() -> Iterator[Finding]:
        for finding in examine(
            options.urls,
            Credentials(**flags.credentials(options)),
            wanted,
            seconds=flags.parsed(_SECONDS, options),
            timeout_s=flags.parsed(_PATIENCE, options),
        ):
            findings.append(finding)
            yield finding

    if options.json:
        print(as_json(noted()))
    else:
        for line in as_lines(noted()):
            print(line, flush=True)
        wrong = sum(finding.state == "wrong" for finding in findings)
        print(f"{wrong} wrong" if wrong else "all is well")
    return 0 if is_well(findings) else 1


def examine(
    urls: list[str],
    credentials: Credentials,
    wanted: Wanted,
    *,
    seconds: float,
    timeout_s: float,
) -> Iterator[Finding]:
    """What is found, URL for URL and address for address. Raises InvalidArgument."""
    for url in urls:
        parts = checked_url(url)
        if parts.scheme == "inprocess":
            raise InvalidArgument("url", url, "the URL of a service")
        credentials.check(url, parts)
    well = []
    for url in dict.fromkeys(urls):
        try:
            found = targets(url, checked_url(url))
        except Stop as stop:
            yield stop.finding
            continue
        if found[0].address != found[0].parts.hostname:
            addresses = ", ".join(target.address for target in found)
            yield Finding("name", url, "ok", f"{found[0].parts.hostname} is {addresses}")
        for target, reached in _reached(found):
            yield reached
            if reached.state != "ok":
                continue
            try:
                if target.secure:
                    yield from handshake(target, credentials, timeout_s)
                yield from service(target, credentials, wanted, timeout_s)
            except Stop as stop:
                yield stop.finding
            else:
                well.append(url)
    if well:
        urls = list(dict.fromkeys(well))
        yield speed(urls, credentials, wanted, seconds=seconds, timeout_s=timeout_s)


def _reached(found: list[Target]) -> list[tuple[Target, Finding]]:
    """Whether there is anybody at the addresses of a host. An address without, beside others, is no
    more than worth a look: trainers go to the others."""
    findings = []
    for target in found:
        try:
            findings.append(connection(target))
        except Stop as stop:
            findings.append(stop.finding)
    if any(map(is_well, ([finding] for finding in findings))):
        findings = [
            finding if is_well([finding]) else replace(finding, state="note")
            for finding in findings
        ]
    return list(zip(found, findings, strict=True))

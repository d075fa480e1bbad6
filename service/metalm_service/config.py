"""How a server is set up: one frozen value, from which flags and environment derive."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from metalm_proto.errors import InvalidArgument
from metalm_proto.fields import Field

MIB = 2**20

COPIES = 4
"""Of a batch that a door holds of one request at most: being sent, what its transport has copied of
that, the next one, and what that is made from."""
COPIES_TOGETHER = COPIES - 1
"""The same of each of several that are made together: over HTTP in what is sent, and over gRPC one
by one, so that no more than one at a time is made from something."""


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


CONFIG_FIELDS = (
    Field(
        name="host",
        kind=str,
        default="127.0.0.1",
        doc="address to listen on; 0.0.0.0 or :: for every interface",
    ),
    Field(
        name="port",
        default=8000,
        lower=0,
        upper=65535,
        doc="HTTP port; 0 lets the system choose one",
    ),
    Field(
        name="grpc_port",
        default=50051,
        lower=0,
        upper=65535,
        doc="gRPC port; 0 lets the system choose one",
    ),
    Field(
        name="admin_port",
        lower=0,
        upper=65535,
        doc="plain HTTP port for /healthz, /readyz and /metrics, which then are on no other port "
        "than this, but for the first two; 0 lets the system choose one",
    ),
    Field(
        name="tls_cert",
        kind=str,
        doc="PEM file of the server's certificate chain: both doors speak TLS only",
    ),
    Field(name="tls_key", kind=str, doc="PEM file of the certificate's key"),
    Field(
        name="tls_client_ca",
        kind=str,
        doc="PEM file of authorities: clients need a certificate from one of them",
    ),
    Field(
        name="token_file",
        kind=str,
        doc="file with a 'NAME TOKEN' a line: clients need one of the tokens",
    ),
    Field(
        name="tokens",
        kind=str,
        doc="the same with commas between, in place of a file or beside it",
    ),
    Field(name="page", kind=bool, default=True, doc="serve the explorer at /"),
    Field(name="docs", kind=bool, default=True, doc="serve /docs and /openapi.json"),
    Field(name="reflection", kind=bool, default=True, doc="serve gRPC reflection"),
    Field(
        name="threads",
        default=min(32, _cores()),
        lower=1,
        upper=1024,
        doc="threads that generate; more gain nothing than there are cores",
    ),
    Field(
        name="max_message_bytes",
        default=64 * MIB,
        lower=1024,
        upper=2**30,
        doc="bytes of arrays in one batch; larger ones are refused",
    ),
    Field(
        name="max_request_samples",
        default=2**20,
        lower=1,
        upper=2**40,
        doc="samples in one request; more are refused",
    ),
    Field(
        name="max_request_cpu_s",
        default=60,
        lower=1,
        upper=10**6,
        doc="seconds of a core that one request may cost, as estimated from it; dearer are refused",
    ),
    Field(
        name="max_floors_cpu_s",
        default=20,
        lower=0,
        upper=10**6,
        doc="seconds of a core that one answer with floors may cost, as estimated; dearer are "
        "refused",
    ),
    Field(
        name="max_inflight_bytes",
        default=512 * MIB,
        lower=2048,
        upper=2**44,
        doc="bytes of arrays in work or on their way out, all requests together",
    ),
    Field(
        name="max_requests",
        default=128,
        lower=1,
        upper=10_000,
        doc="requests at one time, both doors together",
    ),
    Field(
        name="max_client_share",
        kind=float,
        default=0.5,
        lower=0,
        open_lower=True,
        upper=1,
        doc="share of the requests and bytes at one time that one client may have; one request "
        "it always may",
    ),
    Field(
        name="max_connections",
        default=1024,
        lower=1,
        upper=100_000,
        doc="connections to each door at one time; more are refused as they come",
    ),
    Field(
        name="request_timeout_s",
        default=10,
        lower=1,
        upper=3600,
        doc="seconds that a request may take to arrive",
    ),
    Field(
        name="stall_timeout_s",
        default=20,
        lower=1,
        upper=3600,
        doc="seconds that a reader may take nothing; then its request is ended",
    ),
    Field(
        name="drain_timeout_s",
        default=20,
        lower=0,
        upper=3600,
        doc="seconds that running requests get after SIGTERM",
    ),
    Field(
        name="log_format",
        kind=LogFormat,
        default=LogFormat.TEXT,
        doc="form of log lines, on stderr: text or json",
    ),
    Field(
        name="log_level",
        kind=LogLevel,
        default=LogLevel.INFO,
        doc="least that is logged, debug, info, warning or error; calls are info, probes and the "
        "files of pages debug",
    ),
)
SECRET = {"tokens"}
"""What is no flag, as all users of a machine see those, and in no repr."""
_BY_NAME = {field.name: field for field in CONFIG_FIELDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """See `CONFIG_FIELDS` for each value's meaning and bounds. Raises InvalidArgument."""

    host: str = _BY_NAME["host"].default
    port: int = _BY_NAME["port"].default
    grpc_port: int = _BY_NAME["grpc_port"].default
    admin_port: int | None = _BY_NAME["admin_port"].default
    tls_cert: str | None = _BY_NAME["tls_cert"].default
    tls_key: str | None = _BY_NAME["tls_key"].default
    tls_client_ca: str | None = _BY_NAME["tls_client_ca"].default
    token_file: str | None = _BY_NAME["token_file"].default
    tokens: str | None = field(default=_BY_NAME["tokens"].default, repr=False)
    page: bool = _BY_NAME["page"].default
    docs: bool = _BY_NAME["docs"].default
    reflection: bool = _BY_NAME["reflection"].default
    threads: int = _BY_NAME["threads"].default
    max_message_bytes: int = _BY_NAME["max_message_bytes"].default
    max_request_samples: int = _BY_NAME["max_request_samples"].default
    max_floors_cpu_s: int = _BY_NAME["max_floors_cpu_s"].default
    max_inflight_bytes: int = _BY_NAME["max_inflight_bytes"].default
    max_request_cpu_s: int = _BY_NAME["max_request_cpu_s"].default
    max_requests: int = _BY_NAME["max_requests"].default
    max_client_share: float = _BY_NAME["max_client_share"].default
    max_connections: int = _BY_NAME["max_connections"].default
    request_timeout_s: int = _BY_NAME["request_timeout_s"].default
    stall_timeout_s: int = _BY_NAME["stall_timeout_s"].default
    drain_timeout_s: int = _BY_NAME["drain_timeout_s"].default
    log_format: LogFormat = _BY_NAME["log_format"].default
    log_level: LogLevel = _BY_NAME["log_level"].default

    def __post_init__(self) -> None:
        for known in CONFIG_FIELDS:
            value = getattr(self, known.name)
            if value is not None or known.default is not None:
                object.__setattr__(self, known.name, known.check(value))
            # A secret that did not arrive must not open the doors.
            if value == "" and known.default is None:
                raise InvalidArgument(known.name, value, "absent, or not empty")
        if self.port and self.port == self.grpc_port:
            raise InvalidArgument("grpc_port", self.grpc_port, "another port than port")
        if self.admin_port and self.admin_port in (self.port, self.grpc_port):
            raise InvalidArgument("admin_port", self.admin_port, "another port than both doors'")
        if bool(self.tls_cert) != bool(self.tls_key):
            name = "tls_key" if self.tls_cert else "tls_cert"
            raise InvalidArgument(name, None, "given, as certificate and key go together")
        if self.tls_client_ca and not self.tls_cert:
            raise InvalidArgument("tls_cert", None, "given where tls_client_ca is")
        if not self.host:
            raise InvalidArgument("host", self.host, "an address or a host name")
        if self.max_inflight_bytes < COPIES * self.max_message_bytes:
            bound = f"at least {COPIES} times max_message_bytes, {COPIES * self.max_message_bytes}"
            raise InvalidArgument("max_inflight_bytes", self.max_inflight_bytes, bound)

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        for known in CONFIG_FIELDS:
            if known.name in SECRET:
                continue
            default = "" if known.default is None else f"; default {known.default}"
            parser.add_argument(
                _flag(known.name),
                metavar=known.kind.__name__.upper(),
                help=f"{known.doc} [{_variable(known.name)}{default}]",
            )
        (tokens,) = SECRET
        parser.epilog = f"In the environment only: {_variable(tokens)}, {_BY_NAME[tokens].doc}."

    @classmethod
    def load(cls, flags: Mapping[str, Any], environment: Mapping[str, str]) -> ServerConfig:
        """From parsed flags, then `METALM_*` variables, then defaults.

        Raises InvalidArgument; its field is the flag or the variable, and for what is wrong only
        together with another value its name.
        """
        values = {}
        for known in CONFIG_FIELDS:
            sources = (
                (_flag(known.name), flags.get(known.name)),
                (_variable(known.name), environment.get(_variable(known.name))),
            )
            for source, text in sources:
                if text is not None:
                    try:
                        values[known.name] = known.parse(text)
                    except InvalidArgument as error:
                        raise InvalidArgument(source, text, error.bound) from None
                    break
        return cls(**values)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return "METALM_" + name.upper()

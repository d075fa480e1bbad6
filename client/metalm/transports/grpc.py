"""The gRPC door."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from metalm.credentials import NOBODY, Credentials, Renewed
from metalm.transports import tls
from metalm.transports.base import CONNECT_S, BatchStream
from metalm.transports.memory import Memory
from metalm_proto import errors, messages, wire
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.spec import BatchRequest, Spec
from metalm_proto.v1 import metalm_pb2 as pb

_SERVICE = "/" + pb.DESCRIPTOR.services_by_name["MetaLMService"].full_name


_used_by: list[int] = []
"""The process that has used gRPC, if any has; known to those that are forked from it, too."""


def used_by_another_process() -> bool:
    """Whether this one was forked from one that has used gRPC, and can therefore not use it."""
    return bool(_used_by) and _used_by[0] != os.getpid()


class GrpcTransport:
    """A service at `grpc://host:port` or `grpcs://host:port`.

    `address`: the one to connect to, of those that the host has; by default the host itself.
    `timeout_s`: for a unary call, and for each message of a stream.
    """

    def __init__(
        self,
        target: str,
        *,
        secure: bool,
        timeout_s: float,
        address: str | None = None,
        credentials: Credentials = NOBODY,
    ) -> None:
        _used_by[:] = [os.getpid()]
        self._url = f"grpc{'s' if secure else ''}://{target}"
        self._credentials = credentials
        self._secure = secure
        self._timeout_s = timeout_s
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", -1),
            # Despite its name, what an attempt to connect may take at most.
            ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
            # Otherwise a new channel would be given the connection of the last one.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        place = target
        parts = urlsplit(f"//{target}")
        self._host, port = parts.hostname or "", parts.port or 0
        self._place = address or self._host, port
        if address:
            place = f"ipv6:[{address}]:{port}" if ":" in address else f"ipv4:{address}:{port}"
            options.append(("grpc.default_authority", target))
            if secure:
                options.append(("grpc.ssl_target_name_override", self._host))
        if credentials.token is not None and not secure:
            # A proxy could read it.
            options.append(("grpc.enable_http_proxy", 0))

        def certificates() -> grpc.ChannelCredentials | None:
            return grpc.ssl_channel_credentials(*credentials.pem()) if secure else None

        self._certificates = Renewed(credentials, certificates)
        self._new_connection = partial(_Connection, place, options)
        self._memory = Memory()
        self._lock = threading.Lock()
        self._connection = self._new_connection(self._certificates.current())

    def batches(self, request: BatchRequest) -> BatchStream:
        watch = _Watch(self._timeout_s)
        return BatchStream(self._batches(request, watch), watch.stop)

    def _batches(self, request: BatchRequest, watch: _Watch) -> Generator[Batch, None, None]:
        with self._connected() as connection, self._errors(self._timeout_s, watch):
            question = messages.stream_request_to_message(request)
            watch.begin(connection.stream_batches(question, metadata=self._metadata()))
            try:
                while (data := watch.next()) is not None:
                    yield self._decoded(data)
            finally:
                watch.stop()

    def describe(self, spec: Spec | None, timeout_s: float | None = None) -> Description:
        question = pb.DescribeRequest(spec=None if spec is None else messages.spec_to_message(spec))
        seconds = timeout_s or self._timeout_s
        with self._connected() as connection, self._errors(seconds):
            return messages.description_from_message(
                connection.describe(question, timeout=seconds, metadata=self._metadata()), spec
            )

    def close(self) -> None:
        self._connection.channel.close()
        self._memory.close()

    def _decoded(self, data: bytes) -> Batch:
        message = self._memory.take(len(data))
        message[:] = data
        return wire.batch_from_response(message)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Raises Unauthenticated."""
        return tuple(self._credentials.headers().items())

    @contextmanager
    def _connected(self) -> Iterator[_Connection]:
        """The connection, for one call. There is a new one for whoever comes next after a silence,
        as the network may have forgotten the old one and gRPC would use it for ever; and where
        nobody was reached, as gRPC would go on failing for a time of its own without a look; and
        where there are other certificates."""
        certificates = self._certificates.current()
        with self._lock:
            before = self._connection
            if certificates is not before.certificates:
                self._connection = self._new_connection(certificates)
            connection = self._connection
            connection.calls += 1
            left = before is not connection and not before.calls
        if left:
            before.channel.close()
        try:
            yield connection
        except (errors.DeadlineExceeded, errors.Unreachable):
            with self._lock:
                if connection is self._connection:
                    self._connection = self._new_connection(certificates)
            raise
        finally:
            with self._lock:
                connection.calls -= 1
                left = connection is not self._connection and not connection.calls
            if left:
                connection.channel.close()

    @contextmanager
    def _errors(self, timeout_s: float, watch: _Watch | None = None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._translated(error, watch is not None and watch.heard) from error
        except _SilenceError as error:
            message = f"{self._url}: no sign of the service for {timeout_s:g} s"
            raise errors.DeadlineExceeded(message) from error
        except ValueError as error:  # what grpc raises for a channel that was closed
            raise errors.Unavailable(f"{self._url}: {error}") from error

    def _translated(self, error: grpc.RpcError, connected: bool) -> errors.MetaLMError:
        """The error that the service sent, or one for what gRPC itself has to say."""
        reason, details, retry_after_s = None, {}, None
        try:
            status = rpc_status.from_call(error)
        except (ValueError, DecodeError):  # somebody else's details
            status = None
        for detail in status.details if status else ():
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == errors.DOMAIN:
                reason, details = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        if reason is not None:
            return errors.from_reason(reason, error.details() or "", details, retry_after_s)
        message = f"{self._url}: {errors.one_line(error.details())}"
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(message)
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return errors.Unauthenticated(message)
        if code is grpc.StatusCode.UNAVAILABLE and not connected:
            return self._refusal() or errors.Unreachable(message)
        if code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.CANCELLED,
            # The service says more than that when it fails. This is gRPC itself, for bytes that
            # make no sense to it, or that TLS finds altered.
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
        ):
            return errors.Unavailable(message)
        return errors.InternalError(f"{message} ({code.name})")

    def _refusal(self) -> errors.MetaLMError | None:
        """Why TLS lets nobody through, where that is why nobody was reached."""
        if not self._secure:
            return None
        context, timeout_s = self._credentials.context(), min(self._timeout_s, CONNECT_S)
        return tls.examine(self._url, self._place, self._host, context, timeout_s)


class _Connection:
    """A channel, which has one connection to one address at a time, and its methods."""

    def __init__(
        self,
        place: str,
        options: list[tuple[str, Any]],
        certificates: grpc.ChannelCredentials | None,
    ) -> None:
        self.certificates = certificates
        self.calls = 0
        """Under way."""
        self.channel = (
            grpc.insecure_channel(place, options)
            if certificates is None
            else grpc.secure_channel(place, certificates, options)
        )
        self.describe = self.channel.unary_unary(
            f"{_SERVICE}/Describe",
            pb.DescribeRequest.SerializeToString,
            pb.DescribeResponse.FromString,
        )
        # Bytes come back: what is in them is decoded, and judged, in the caller's thread.
        self.stream_batches: Any = self.channel.unary_stream(
            f"{_SERVICE}/StreamBatches", pb.StreamBatchesRequest.SerializeToString
        )


class _SilenceError(Exception):
    """A stream gave nothing for too long."""


class _Watch:
    """Takes messages from a stream, and cancels it when one takes longer than `timeout_s`.

    gRPC knows a deadline for a whole stream only, which a slow reader would run into. One thread a
    stream looks at the clock; while nobody waits for a message it lets the time pass.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.heard = False
        self._call: Any = None
        self._waiting_since: float | None = None
        self._silent = False
        self._stopped = threading.Event()

    def begin(self, call: Any) -> None:
        self._call = call
        if self._stopped.is_set():
            call.cancel()
        else:
            threading.Thread(target=self._run, name="metalm-watch", daemon=True).start()

    def next(self) -> bytes | None:
        """The next message, None at the end. Raises grpc.RpcError or _SilenceError."""
        self._waiting_since = time.monotonic()
        try:
            message: bytes | None = next(self._call, None)
        except grpc.RpcError:
            if self._silent:
                raise _SilenceError from None
            raise
        finally:
            self._waiting_since = None
        self.heard = True
        return message

    def stop(self) -> None:
        """Ends the stream; a `next` that waits in another thread gives up."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self) -> None:
        while not self._stopped.wait(self._timeout_s / 8):
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self._timeout_s:
                self._silent = True
                self._call.cancel()
                return

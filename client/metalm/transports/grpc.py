"""The gRPC door."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from metalm_proto import errors, messages, wire
from metalm_proto.batch import Batch
from metalm_proto.description import Description
from metalm_proto.spec import BatchRequest, Spec
from metalm_proto.v1 import metalm_pb2 as pb

_SERVICE = "/" + pb.DESCRIPTOR.services_by_name["MetaLMService"].full_name


class GrpcTransport:
    """A service at `grpc://host:port` or `grpcs://host:port`.

    `timeout_s`: for a unary call, and for each message of a stream.
    """

    def __init__(self, target: str, *, secure: bool, timeout_s: float) -> None:
        self._target = target
        self._timeout_s = timeout_s
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = (
            grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
            if secure
            else grpc.insecure_channel(target, options)
        )
        self._describe = self._channel.unary_unary(
            f"{_SERVICE}/Describe",
            pb.DescribeRequest.SerializeToString,
            pb.DescribeResponse.FromString,
        )
        # Bytes come back: what is in them is decoded, and judged, in the caller's thread.
        self._stream_batches: Any = self._channel.unary_stream(
            f"{_SERVICE}/StreamBatches", pb.StreamBatchesRequest.SerializeToString
        )

    def batches(self, request: BatchRequest) -> Generator[Batch, None, None]:
        with self._errors():
            call = self._stream_batches(messages.stream_request_to_message(request))
            watch = _Watch(call, self._timeout_s)
            try:
                while (data := watch.next()) is not None:
                    yield wire.batch_from_response(data)
            finally:
                watch.stop()
                call.cancel()

    def describe(self, spec: Spec | None) -> Description:
        question = pb.DescribeRequest(spec=None if spec is None else messages.spec_to_message(spec))
        with self._errors():
            return messages.description_from_message(
                self._describe(question, timeout=self._timeout_s), spec
            )

    def close(self) -> None:
        self._channel.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._translated(error) from error
        except _SilenceError as error:
            message = f"grpc://{self._target}: no sign of the service for {self._timeout_s:g} s"
            raise errors.DeadlineExceeded(message) from error

    def _translated(self, error: grpc.RpcError) -> errors.MetaLMError:
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
        message = f"grpc://{self._target}: {error.details()}"
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(message)
        if code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.CANCELLED,
        ):
            return errors.Unavailable(message)
        return errors.InternalError(f"{message} ({code.name})")


class _SilenceError(Exception):
    """A stream gave nothing for too long."""


class _Watch:
    """Takes messages from a stream, and cancels it when one takes longer than `timeout_s`.

    gRPC knows a deadline for a whole stream only, which a slow reader would run into. One thread a
    stream looks at the clock; while nobody waits for a message it lets the time pass.
    """

    def __init__(self, call: Any, timeout_s: float) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._waiting_since: float | None = None
        self._silent = False
        self._stopped = threading.Event()
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
        return message

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._timeout_s / 8):
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self._timeout_s:
                self._silent = True
                self._call.cancel()
                return

"""The gRPC door."""

from __future__ import annotations

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

_SERVICE = "/metalm.v1.MetaLMService"


class GrpcTransport:
    """A service at `grpc://host:port` or `grpcs://host:port`.

    `timeout_s`: for the first sign of life, and for unary calls.
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
            try:
                for data in call:
                    yield wire.batch_from_response(data)
            finally:
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

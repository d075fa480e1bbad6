"""How a call at the gRPC door fails: our errors, with all that is known of them, as a status."""

from __future__ import annotations

import logging
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from metalm_proto import errors
from metalm_service.grpc.calls import CallContext
from metalm_service.handler import CallerGoneError

_log = logging.getLogger(__name__)


def abort(context: CallContext, error: Exception) -> NoReturn:
    """Ends the call with the error's own code and details, and never with a defect's text."""
    if isinstance(error, CallerGoneError):
        context.abort(grpc.StatusCode.CANCELLED, "the caller has gone")
    if not isinstance(error, errors.MetaLMError):
        _log.error("a call failed", exc_info=error)
        error = errors.InternalError("the service failed; its log has the cause")
    context.call.failed(error.reason, str(error))
    context.abort_with_status(rpc_status.to_status(_status(error)))


def _status(error: errors.MetaLMError) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=errors.DOMAIN, metadata=error.details()
    )
    details = [info]
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code_pb2.Code.Value(error.grpc_code), message=str(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status

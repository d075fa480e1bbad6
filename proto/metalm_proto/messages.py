"""Specs, requests and descriptions to protobuf messages and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from metalm_proto.description import Description, Limits, Reach
from metalm_proto.errors import InvalidArgument
from metalm_proto.spec import (
    BATCH_SIZE,
    GENERATOR,
    SIZE,
    SPEC_FIELDS,
    BatchRequest,
    Profile,
    Spec,
    Split,
    draw_seed,
)
from metalm_proto.v1 import metalm_pb2 as pb

_PROFILES = {
    pb.PROFILE_UNSPECIFIED: Profile.METALM,
    pb.PROFILE_METALM: Profile.METALM,
    pb.PROFILE_METAGYM: Profile.METAGYM,
}
SPLITS = {
    pb.SPLIT_UNSPECIFIED: Split.TRAIN,
    pb.SPLIT_TRAIN: Split.TRAIN,
    pb.SPLIT_VALIDATION: Split.VALIDATION,
    pb.SPLIT_TEST: Split.TEST,
}
_PROFILE_CODES = {profile: code for code, profile in _PROFILES.items()}
SPLIT_CODES = {split: code for code, split in SPLITS.items()}
DATA_TYPES = {
    np.dtype("|u1"): pb.DATA_TYPE_UINT8,
    np.dtype("<u2"): pb.DATA_TYPE_UINT16,
    np.dtype("<i4"): pb.DATA_TYPE_INT32,
}
_LONG_NAMES = {field.name: field.long_name for field in SPEC_FIELDS}
DTYPES = {code: dtype for dtype, code in DATA_TYPES.items()}


def spec_to_message(spec: Spec) -> pb.Spec:
    message = pb.Spec(profile=_PROFILE_CODES[spec.profile])
    for field in SPEC_FIELDS:
        if field.kind is not Profile and (value := getattr(spec, field.name)) is not None:
            setattr(message, field.long_name, value)
    return message


def spec_from_message(message: pb.Spec) -> Spec:
    """Raises InvalidArgument."""
    values: dict[str, Any] = {
        field.name: getattr(message, field.long_name)
        for field in SPEC_FIELDS
        if field.kind is not Profile and message.HasField(field.long_name)
    }
    # A number that is no profile is refused by the spec, by name.
    values["profile"] = _PROFILES.get(message.profile, message.profile)
    return Spec(**values)


def sample_request_from_message(message: pb.SampleRequest) -> BatchRequest:
    """Raises InvalidArgument or UnknownGenerator."""
    return BatchRequest.single(
        first=message.first,
        size=message.size if message.HasField("size") else SIZE.default,
        **_common_values(message),
    )


def stream_request_to_message(request: BatchRequest) -> pb.StreamBatchesRequest:
    """Raises InvalidArgument for a range or a stride longer than one request can name."""
    span = request.stop - request.start
    for name, value in (("samples", span), ("stride", request.stride)):
        if value is not None and value >= 2**63:
            raise InvalidArgument(name, value, f"an integer with {name} < 2^63")
    return pb.StreamBatchesRequest(
        start=request.start,
        samples=span,
        batch_size=request.batch_size,
        stride=None if request.stride == request.batch_size else request.stride,
        spec=spec_to_message(request.spec),
        seed=request.seed,
        split=SPLIT_CODES[request.split],
        generator=request.generator,
        provenance=request.provenance,
    )


def stream_request_from_message(message: pb.StreamBatchesRequest) -> BatchRequest:
    """Raises InvalidArgument or UnknownGenerator."""
    common = _common_values(message)
    if message.samples < 1:
        raise InvalidArgument("samples", message.samples, "an integer with 1 <= samples")
    return BatchRequest(
        start=message.start,
        stop=message.start + message.samples,
        batch_size=message.batch_size if message.HasField("batch_size") else BATCH_SIZE.default,
        stride=message.stride if message.HasField("stride") else None,
        **common,
    )


def _common_values(message: pb.SampleRequest | pb.StreamBatchesRequest) -> dict[str, Any]:
    return {
        "spec": spec_from_message(message.spec),
        "seed": message.seed if message.HasField("seed") else draw_seed(),
        "split": SPLITS.get(message.split, message.split),
        "generator": message.generator or GENERATOR,
        "provenance": message.provenance,
    }


def description_to_message(description: Description) -> pb.DescribeResponse:
    limits, spec = description.limits, description.spec
    return pb.DescribeResponse(
        generators=description.generators,
        version=description.version,
        engine=description.engine,
        limits=None if limits is None else pb.Limits(**asdict(limits)),
        token_ids=None
        if spec is None
        else pb.TokenIds(
            mask=spec.mask_id,
            separator=spec.separator_id,
            vocabulary=spec.vocabulary,
            dtype=DATA_TYPES[spec.dtype],
        ),
        reach=None if description.reach is None else _reach_to_message(description.reach),
    )


def description_from_message(message: pb.DescribeResponse, spec: Spec | None) -> Description:
    """The server's answer to a question about `spec`."""
    limits = {field.name: getattr(message.limits, field.name) for field in fields(Limits)}
    return Description(
        generators=tuple(message.generators),
        version=message.version,
        engine=message.engine,
        limits=Limits(**limits) if message.HasField("limits") else None,
        spec=spec,
        reach=_reach_from_message(message.reach) if message.HasField("reach") else None,
    )


def _reach_to_message(reach: Reach) -> pb.Reach:
    return pb.Reach(**{_LONG_NAMES[name]: value for name, value in asdict(reach).items()})


def _reach_from_message(message: pb.Reach) -> Reach:
    names = [field.name for field in fields(Reach)]
    return Reach(**{name: getattr(message, _LONG_NAMES[name]) for name in names})

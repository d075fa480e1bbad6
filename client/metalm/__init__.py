"""Seeded MetaLM batches for research in lifelong in-context learning."""

from metalm.client import MetaLMClient
from metalm.iterator import BatchIterator
from metalm_proto.batch import Batch, Language, Provenance
from metalm_proto.errors import (
    CorruptBatch,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    MetaLMError,
    Overloaded,
    Unauthenticated,
    Unavailable,
    UnknownGenerator,
)
from metalm_proto.spec import Profile, Spec, Split

__all__ = [
    "Batch",
    "BatchIterator",
    "CorruptBatch",
    "DeadlineExceeded",
    "InternalError",
    "InvalidArgument",
    "Language",
    "LimitExceeded",
    "MetaLMClient",
    "MetaLMError",
    "Overloaded",
    "Profile",
    "Provenance",
    "Spec",
    "Split",
    "Unauthenticated",
    "Unavailable",
    "UnknownGenerator",
]

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Profile(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROFILE_UNSPECIFIED: _ClassVar[Profile]
    PROFILE_METALM: _ClassVar[Profile]
    PROFILE_METAGYM: _ClassVar[Profile]

class Split(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPLIT_UNSPECIFIED: _ClassVar[Split]
    SPLIT_TRAIN: _ClassVar[Split]
    SPLIT_VALIDATION: _ClassVar[Split]
    SPLIT_TEST: _ClassVar[Split]

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_UINT16: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
PROFILE_UNSPECIFIED: Profile
PROFILE_METALM: Profile
PROFILE_METAGYM: Profile
SPLIT_UNSPECIFIED: Split
SPLIT_TRAIN: Split
SPLIT_VALIDATION: Split
SPLIT_TEST: Split
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_UINT16: DataType
DATA_TYPE_INT32: DataType

class Spec(_message.Message):
    __slots__ = ("vocab_size", "elements_number", "elements_length", "error_rate", "sequence_length", "mask_ratio", "profile", "language")
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MASK_RATIO_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    vocab_size: int
    elements_number: int
    elements_length: float
    error_rate: float
    sequence_length: int
    mask_ratio: float
    profile: Profile
    language: int
    def __init__(self, vocab_size: _Optional[int] = ..., elements_number: _Optional[int] = ..., elements_length: _Optional[float] = ..., error_rate: _Optional[float] = ..., sequence_length: _Optional[int] = ..., mask_ratio: _Optional[float] = ..., profile: _Optional[_Union[Profile, str]] = ..., language: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("generator", "spec", "seed", "split", "first", "shape", "dtype", "digest", "provenance", "x", "y")
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    generator: str
    spec: Spec
    seed: int
    split: Split
    first: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: DataType
    digest: int
    provenance: Provenance
    x: bytes
    y: bytes
    def __init__(self, generator: _Optional[str] = ..., spec: _Optional[_Union[Spec, _Mapping]] = ..., seed: _Optional[int] = ..., split: _Optional[_Union[Split, str]] = ..., first: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[DataType, str]] = ..., digest: _Optional[int] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., x: _Optional[bytes] = ..., y: _Optional[bytes] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("element", "offset", "exposure", "corruption", "languages", "digest")
    ELEMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_FIELD_NUMBER: _ClassVar[int]
    CORRUPTION_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    element: bytes
    offset: bytes
    exposure: bytes
    corruption: bytes
    languages: _containers.RepeatedCompositeFieldContainer[Language]
    digest: int
    def __init__(self, element: _Optional[bytes] = ..., offset: _Optional[bytes] = ..., exposure: _Optional[bytes] = ..., corruption: _Optional[bytes] = ..., languages: _Optional[_Iterable[_Union[Language, _Mapping]]] = ..., digest: _Optional[int] = ...) -> None: ...

class Language(_message.Message):
    __slots__ = ("lengths", "tokens")
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    lengths: bytes
    tokens: bytes
    def __init__(self, lengths: _Optional[bytes] = ..., tokens: _Optional[bytes] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: Spec
    def __init__(self, spec: _Optional[_Union[Spec, _Mapping]] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("generators", "limits", "version", "engine", "token_ids", "reach")
    GENERATORS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    generators: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    version: str
    engine: str
    token_ids: TokenIds
    reach: Reach
    def __init__(self, generators: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., version: _Optional[str] = ..., engine: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., reach: _Optional[_Union[Reach, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_request_samples", "max_inflight_bytes", "max_request_cpu_s")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_INFLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_CPU_S_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_request_samples: int
    max_inflight_bytes: int
    max_request_cpu_s: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_request_samples: _Optional[int] = ..., max_inflight_bytes: _Optional[int] = ..., max_request_cpu_s: _Optional[int] = ...) -> None: ...

class Reach(_message.Message):
    __slots__ = ("vocab_size", "elements_number", "elements_length", "sequence_length")
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    vocab_size: int
    elements_number: int
    elements_length: int
    sequence_length: int
    def __init__(self, vocab_size: _Optional[int] = ..., elements_number: _Optional[int] = ..., elements_length: _Optional[int] = ..., sequence_length: _Optional[int] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("mask", "separator", "vocabulary", "dtype")
    MASK_FIELD_NUMBER: _ClassVar[int]
    SEPARATOR_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    mask: int
    separator: int
    vocabulary: int
    dtype: DataType
    def __init__(self, mask: _Optional[int] = ..., separator: _Optional[int] = ..., vocabulary: _Optional[int] = ..., dtype: _Optional[_Union[DataType, str]] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("spec", "seed", "split", "first", "size", "generator", "provenance")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    spec: Spec
    seed: int
    split: Split
    first: int
    size: int
    generator: str
    provenance: bool
    def __init__(self, spec: _Optional[_Union[Spec, _Mapping]] = ..., seed: _Optional[int] = ..., split: _Optional[_Union[Split, str]] = ..., first: _Optional[int] = ..., size: _Optional[int] = ..., generator: _Optional[str] = ..., provenance: bool = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class StreamBatchesRequest(_message.Message):
    __slots__ = ("spec", "seed", "split", "start", "samples", "batch_size", "generator", "provenance", "stride")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    spec: Spec
    seed: int
    split: Split
    start: int
    samples: int
    batch_size: int
    generator: str
    provenance: bool
    stride: int
    def __init__(self, spec: _Optional[_Union[Spec, _Mapping]] = ..., seed: _Optional[int] = ..., split: _Optional[_Union[Split, str]] = ..., start: _Optional[int] = ..., samples: _Optional[int] = ..., batch_size: _Optional[int] = ..., generator: _Optional[str] = ..., provenance: bool = ..., stride: _Optional[int] = ...) -> None: ...

class StreamBatchesResponse(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

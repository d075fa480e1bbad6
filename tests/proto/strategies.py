"""Random values of what the wire carries."""

from __future__ import annotations

from hypothesis import strategies as st

from metalm_proto.spec import BatchRequest, Profile, Spec, Split

U64 = st.integers(0, 2**64 - 1)
VOCABULARIES = st.sampled_from([2, 254, 255, 65534, 65535, 2**31 - 3])


@st.composite
def specs(draw: st.DrawFn, longest: int = 2**34) -> Spec:
    return Spec(
        V=draw(VOCABULARIES | st.integers(2, 2**31 - 3)),
        n=draw(st.integers(2, 2**24 - 1)),
        l=draw(st.floats(0, 2**20, exclude_min=True)),
        e=draw(st.floats(0, 1, exclude_max=True)),
        L=draw(st.integers(1, longest)),
        mask_ratio=draw(st.floats(0, 1)),
        profile=draw(st.sampled_from(Profile)),
        language=draw(st.none() | U64),
    )


@st.composite
def requests(draw: st.DrawFn, most: int) -> BatchRequest:
    """Requests of up to `most` samples."""
    start = draw(U64)
    return BatchRequest(
        spec=draw(specs()),
        seed=draw(U64),
        start=start,
        stop=min(2**64, start + draw(st.integers(1, most))),
        batch_size=draw(st.integers(1, 2**31 - 1)),
        split=draw(st.sampled_from(Split)),
        provenance=draw(st.booleans()),
    )

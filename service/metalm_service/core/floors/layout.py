"""Which tokens a mean is taken over: positions, segments, exposures, lags, offsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalm_proto.spec import Spec

LONGEST_SEGMENT = 128
"""As in the published curves, which are of 4096 tokens."""

_SEGMENTS = 32
"""Of a sequence, at least."""

EXPOSURE_GROUPS = ((1, 2), (2, 3), (3, 5), (5, 9), (9, 17), (17, None))
"""Exposures [from, to) at which the lag is looked at: at the same exposure, or nearly so."""

_Index = NDArray[np.int64]
Bin = dict[str, int | None]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The bins of a spec, one behind the other on one axis; `parts` says which are whose.

    position: one bin a step. segment: so many steps as `segment_length` says, the last may be
    smaller. cumulative: from the beginning to the end of a segment; here the mean is over
    sequences, of the sum. overall, plateau: all steps, and those from L // 2 on. exposure, lag (at
    fixed exposure), offset (of elements that were not, and that were, spoken in full before): of
    the target token.
    """

    length: int
    parts: dict[str, slice]
    exposure_edges: _Index
    lag_edges: _Index
    offset_edges: _Index

    @property
    def size(self) -> int:
        """Bins in all."""
        return max(int(part.stop) for part in self.parts.values())

    @property
    def segment_starts(self) -> _Index:
        return np.arange(0, self.length, segment_length(self.length))

    def bins(self, part: str) -> list[Bin]:
        """The bounds of each bin of a part, [from, to): of the step, the exposure, the lag or the
        offset."""
        return _BOUNDS[part](self)

    def indices(
        self, exposure: NDArray[Any], lag: NDArray[Any], offset: NDArray[Any]
    ) -> dict[str, _Index]:
        """The bin, within its part, of each token [B, L]; -1: in none. exposure, lag and offset
        are those of the targets."""
        exposures = np.searchsorted(self.exposure_edges, exposure, side="right") - 1
        starts = [low for low, _ in EXPOSURE_GROUPS]
        group = np.searchsorted(starts, exposure, side="right") - 1
        lags = np.searchsorted(self.lag_edges, lag, side="right") - 1
        offsets = np.searchsorted(self.offset_edges, offset, side="right") - 1
        return {
            "exposure": exposures,
            "lag": np.where((group < 0) | (lags < 0), -1, group * len(self.lag_edges) + lags),
            "offset": np.where(exposure > 0, len(self.offset_edges), 0) + offsets,
        }


def segment_length(length: int) -> int:
    """Steps of a segment: 128, and in sequences of fewer than 4096 the greatest power of two of
    which they have 32."""
    wanted = min(LONGEST_SEGMENT, length // _SEGMENTS)
    return 1 << max(0, wanted.bit_length() - 1)


@lru_cache(maxsize=16)
def layout_of(spec: Spec) -> Layout:
    """The layout of a spec: it depends on L alone, so that sums of one L can be added."""
    exposures = _edges(np.arange(16), 16, spec.L, 2)
    lags = _edges([], 4, spec.L + 1, 2)
    offsets = _edges(np.arange(128), 128, spec.L, 4)
    segments = -(-spec.L // segment_length(spec.L))
    sizes = {
        "position": spec.L,
        "segment": segments,
        "cumulative": segments,
        "overall": 1,
        "plateau": 1,
        "exposure": len(exposures),
        "lag": len(EXPOSURE_GROUPS) * len(lags),
        "offset": 2 * len(offsets),
    }
    stops = np.cumsum(list(sizes.values())).tolist()
    parts = {
        name: slice(stop - size, stop)
        for (name, size), stop in zip(sizes.items(), stops, strict=True)
    }
    return Layout(spec.L, parts, exposures, lags, offsets)


def _edges(single: Sequence[int] | _Index, first: int, last: int, an_octave: int) -> _Index:
    """Lower bounds of bins: `single` ones, and from `first` on so many an octave, up to `last`."""
    octaves = max(0, int(np.ceil(np.log2(max(last, 1) / first)))) + 1
    powers = first * 2.0 ** (np.arange(octaves * an_octave) / an_octave)
    edges = np.concatenate([np.asarray(single, np.int64), np.round(powers).astype(np.int64)])
    return np.unique(edges[(edges <= last) | (edges == edges[0])])


def _ranges(edges: _Index, **fixed: int | None) -> list[Bin]:
    lows = edges.tolist()
    highs: list[int | None] = [*lows[1:], None]
    return [{"from": low, "to": high, **fixed} for low, high in zip(lows, highs, strict=True)]


def _positions(layout: Layout) -> list[Bin]:
    return [{"from": step, "to": step + 1} for step in range(layout.length)]


def _segments(layout: Layout) -> list[Bin]:
    starts = layout.segment_starts.tolist()
    return [
        {"from": start, "to": stop}
        for start, stop in zip(starts, [*starts[1:], layout.length], strict=True)
    ]


def _ends(layout: Layout) -> list[Bin]:
    return [{"from": 0, "to": one["to"]} for one in _segments(layout)]


def _lags(layout: Layout) -> list[Bin]:
    return [
        one
        for low, high in EXPOSURE_GROUPS
        for one in _ranges(layout.lag_edges, exposure_from=low, exposure_to=high)
    ]


def _offsets(layout: Layout) -> list[Bin]:
    groups: list[tuple[int, int | None]] = [(0, 1), (1, None)]
    return [
        one
        for low, high in groups
        for one in _ranges(layout.offset_edges, exposure_from=low, exposure_to=high)
    ]


_BOUNDS: dict[str, Callable[[Layout], list[Bin]]] = {
    "position": _positions,
    "segment": _segments,
    "cumulative": _ends,
    "overall": lambda layout: [{"from": 0, "to": layout.length}],
    "plateau": lambda layout: [{"from": layout.length // 2, "to": layout.length}],
    "exposure": lambda layout: _ranges(layout.exposure_edges),
    "lag": _lags,
    "offset": _offsets,
}

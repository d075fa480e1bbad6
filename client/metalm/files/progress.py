"""Progress bars: on a terminal, and only there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from metalm.files.ending import check_ending
from metalm_proto.batch import Batch

_FORMAT = (
    "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} samples "
    "[{elapsed}<{remaining}, {rate_noinv_fmt}, {tokens_rate}]"
)


@contextmanager
def progress(
    samples: int, tokens: int, what: str, shown: bool = True
) -> Iterator[Callable[[int], object]]:
    """A bar for that many samples of that many tokens; it yields what takes steps of samples, and
    raises there what a signal raised that was lost."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    with _Bar(
        total=samples,
        desc=what,
        unit=" samples",
        file=sys.stderr,
        disable=not (shown and terminal and samples),
        bar_format=_FORMAT,
        tokens=tokens,
    ) as bar:

        def advance(size: int) -> None:
            check_ending()
            bar.update(size)

        yield advance


def passing(batches: Iterable[Batch], advance: Callable[[int], object]) -> Iterator[Batch]:
    """The batches, each counted when it has been dealt with."""
    for batch in batches:
        yield batch
        advance(batch.size)


class _Bar(tqdm):  # type: ignore[type-arg]  # generic for type checkers only
    """With the rate in tokens too."""

    def __init__(self, *, tokens: int, **options: Any) -> None:
        self._tokens = tokens
        super().__init__(**options)

    @property
    def format_dict(self) -> Any:
        found = super().format_dict
        rate = found["rate"] or (found["n"] / found["elapsed"] if found["elapsed"] else 0)
        return {**found, "tokens_rate": f"{rate * self._tokens / 1e6:.3g} Mtok/s"}

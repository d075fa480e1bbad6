"""The batches of an admitted request: the next ones are generated while some are on their way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

from metalm_service.handler import Admission, CallerGoneError
from metalm_service.http.formats import Buffers, Format


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of an answer, and how many batches they are."""

    buffers: Buffers
    batches: int


class Ahead:
    """Pieces of an answer, one after another, made on `executor`, which has a thread for each
    admitted request. Of one thread, which is never kept waiting.

    Work is given to a thread when its turn has come, not before: one that waits for a turn has to
    be woken for it, which with more streams than cores was once for every batch.
    """

    def __init__(
        self,
        admission: Admission,
        form: Format,
        executor: Executor,
    ) -> None:
        self.call = admission.call
        self._admission = admission
        self._form = form
        self._executor = executor
        self._closed = False
        self._withdraw: Callable[[], bool] = _nothing_to_withdraw
        self._portions = admission.portions()
        self._begin()

    def upcoming(self) -> Future[Piece | None]:
        """What `following` will give; None at the end."""
        return self._working

    def following(self) -> Piece | None:
        """The next piece, which has to be there, None at the end; the one behind it is begun.

        Raises what making it raised, and CallerGoneError once it is closed.
        """
        # Else work could begin whose reservation was given back with that of the one before.
        if self._closed:
            raise CallerGoneError
        piece = self._working.result(0)
        if piece is not None:
            self._begin()
        return piece

    def taken(self) -> None:
        """The transport has taken the piece that was given last."""
        self._admission.taken()

    def abandon(self) -> None:
        """Nobody wants what is being made: it ends soon, with CallerGoneError."""
        self._closed = True
        if self._withdraw():
            self._working.set_exception(CallerGoneError())

    def close(self) -> None:
        """Ends the work. The reservation is kept until the thread that fills its bytes is done."""
        self.abandon()
        # Not this object, which has the future that keeps the callback: a cycle, with all bytes.
        admission = self._admission
        self._working.add_done_callback(lambda _: admission.close())

    def _begin(self) -> None:
        working: Future[Piece | None] = Future()
        # Whoever waits for it may be cancelled, but not what he waits for: a thread may fill its
        # bytes.
        working.set_running_or_notify_cancel()
        self._working = working
        self._withdraw = _nothing_to_withdraw
        portion = next(self._portions, None)
        if portion is None:
            working.set_result(None)
            return

        def begin(make: Callable[[], Buffers]) -> None:
            try:
                self._executor.submit(_work, make, len(portion), working)
            except Exception as error:
                working.set_exception(error)
                raise

        self._withdraw = self._admission.ask(
            portion,
            partial(self._form.writer, self._admission.request, portion),
            lambda: not self._closed,
            begin,
        )


def _work(make: Callable[[], Buffers], batches: int, working: Future[Piece | None]) -> None:
    if working.done():  # there was no thread for it at first
        return
    try:
        piece = Piece(make(), batches)
    except CallerGoneError:
        # Another one: this one refers to the frames that hold what was made so far.
        working.set_exception(CallerGoneError())
    except BaseException as error:
        working.set_exception(error)
    else:
        working.set_result(piece)


def _nothing_to_withdraw() -> bool:
    return False

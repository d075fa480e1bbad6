"""Log lines: text for eyes or JSON for machines, a line a call, and no control bytes."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any, TextIO

from metalm_service.calls import Call, Watcher
from metalm_service.config import LogFormat, LogLevel

_log = logging.getLogger("metalm_service.calls")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_PLAIN = re.compile(r"[!#-<>-~]+")
_LONGEST_DETAIL = 500


class CallLog(Watcher):
    """A line for each call that has ended; for probes, scrapes and the files of pages only at the
    level debug."""

    def ended(self, call: Call) -> None:
        level = logging.DEBUG if call.is_background else logging.INFO
        if not _log.isEnabledFor(level):
            return
        told = {
            "request_id": call.request_id,
            "door": call.door,
            "method": call.method,
            "client": call.client,
            "outcome": call.outcome,
            "samples": call.samples,
            "bytes": call.bytes,
            "seconds": round(call.seconds, 6),
        }
        if call.detail:
            told["detail"] = call.detail[:_LONGEST_DETAIL]
        _log.log(level, "call", extra={"told": told})


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Sends what every library of this process logs to `stream` (stderr), in one format. `level`
    is the service's own; of others warnings are enough, unless it is debug."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if log_format is LogFormat.JSON else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    own = getattr(logging, level.upper())
    root.setLevel(own if level is LogLevel.DEBUG else max(own, logging.WARNING))
    logging.getLogger("metalm_service").setLevel(own)
    # A reader that goes away in the middle of a stream is no event: it is how iterators are left.
    logging.getLogger("asyncio").setLevel(logging.ERROR)


class _Text(logging.Formatter):
    """Time, level, logger, message, name=value. What goes on below a line, such as a traceback, is
    indented: only a record starts at the margin."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_when(record), record.levelname, record.name, record.getMessage()]
        told: dict[str, Any] = getattr(record, "told", {})
        parts += [f"{name}={_value(value)}" for name, value in told.items()]
        lines = [" ".join(parts).replace("\n", "\\n"), *_cause(self, record).splitlines()]
        return "\n    ".join(map(_printable, lines))


class _Json(logging.Formatter):
    """An object a line: time, level, logger, message, traceback if there is one, and the rest."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        cause = _cause(self, record)
        if cause:
            told["traceback"] = cause
        # JSON leaves this one control character as it is.
        return json.dumps(told).replace("\x7f", "\\u007f")


def _when(record: logging.LogRecord) -> str:
    """In UTC, as RFC 3339 has it."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"


def _cause(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""


def _value(value: object) -> str:
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _printable(line: str) -> str:
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], line)

"""nginx with docker/nginx/nginx.conf, but for this machine's addresses and folders."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

CONFIGURATION = Path(__file__).parents[2] / "docker" / "nginx" / "nginx.conf"
_PATH = os.environ.get("PATH", "") + ":/usr/sbin"
_START_S = 30
_LINE = re.compile(r'"(\S+) (\S+) [^"]*" (\d+) (\d+) (\S+) upstream=(\S+)')


class Line(NamedTuple):
    """Of the log. `status`: what the client was told; `cache`: HIT, MISS, …, "-" if it was not
    looked into; `asked`: whether the service was."""

    method: str
    target: str
    status: int
    bytes: int
    cache: str
    asked: bool


@dataclass
class Nginx:
    """A cache before the service at `service`, at `url` when it runs."""

    service: str
    folder: Path

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = f"http://{address}"
        self._log = self.folder / "access.log"
        text = CONFIGURATION.read_text()
        for ours, theirs in (
            ("server service:8000;", f"server {urlsplit(self.service).netloc};"),
            ("listen 8080;", f"listen {address};"),
            ("/var/cache/nginx/metalm", str(self.folder / "kept")),
            ("/var/log/nginx/access.log", str(self._log)),
        ):
            assert text.count(ours) == 1, ours
            text = text.replace(ours, theirs)
        configuration = self.folder / "nginx.conf"
        configuration.write_text(text)
        directives = f"daemon off; pid {self.folder}/pid; error_log {self.folder}/error.log warn;"
        if os.geteuid() == 0:
            directives += " user root;"  # the workers, which must get into a test's folder
        nginx = shutil.which("nginx", path=_PATH)
        assert nginx is not None
        command = [nginx, "-e", f"{self.folder}/error.log", "-c", str(configuration)]
        self._process = subprocess.Popen([*command, "-g", directives])
        until = time.monotonic() + _START_S
        while not self._answers(address):
            assert self._process.poll() is None, (self.folder / "error.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(_START_S)

    def lines(self, count: int) -> list[Line]:
        """The first `count` lines of the log, and those behind. A line is written when its answer
        has been sent, which may be a little after it was received."""
        until = time.monotonic() + _START_S
        while len(found := self._lines()) < count:
            assert time.monotonic() < until, found
            time.sleep(0.01)
        return found

    def _lines(self) -> list[Line]:
        text = self._log.read_text() if self._log.exists() else ""
        return [
            Line(method, target, int(status), int(size), cache, asked != "-")
            for method, target, status, size, cache, asked in _LINE.findall(text)
        ]

    def _answers(self, address: str) -> bool:
        host, _, port = address.partition(":")
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            return False
        return True


def states(lines: list[Line]) -> Counter[str]:
    """How many answers came from where."""
    return Counter(line.cache for line in lines)

"""The addresses that the name in a URL stands for."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time

from metalm.transports import checked_url, port_of

_EVERY_S = 5.0
_SOONEST_S = 1.0


class Host:
    """The host of a URL. Thread-safe.

    A name is looked up when it is first needed, and again as time goes on: behind the name of a
    headless service the addresses come and go.
    """

    def __init__(self, url: str) -> None:
        """Raises InvalidArgument."""
        self.url = url
        self.said = ""
        """Why the name could not be looked up; empty if it could."""
        parts = checked_url(url)
        self._name = parts.hostname or ""
        self._is_name = parts.scheme != "inprocess" and not _is_address(self._name)
        self._port = port_of(parts) if self._is_name else None
        self._known: tuple[str, ...] = () if self._is_name else ("",)
        self._looking = threading.Lock()
        self._looked_at = float("-inf")

    def addresses(self, *, sooner: bool = False) -> tuple[str, ...]:
        """What is known: the addresses of a name, none while it has none, and "" for a host that
        is no name. Waits for the name server only while nothing is known."""
        age_s = time.monotonic() - self._looked_at
        if self._is_name and age_s >= (_SOONEST_S if sooner or not self._known else _EVERY_S):
            if not self._known:
                with self._looking:
                    if not self._known:
                        self._look_up()
            elif self._looking.acquire(blocking=False):
                looking = threading.Thread(
                    target=self._look_up_aside, name="metalm-dns", daemon=True
                )
                try:
                    looking.start()
                except RuntimeError:  # no thread is to be had; what is known may still do
                    self._looking.release()
        return self._known

    def _look_up_aside(self) -> None:
        try:
            self._look_up()
        finally:
            self._looking.release()

    def _look_up(self) -> None:
        try:
            found = socket.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            # A name server that is away says nothing about the addresses that were there.
            self.said = f"cannot look up {self._name}: {error.strerror or error}"
        else:
            self.said = ""
            self._known = tuple(dict.fromkeys(str(place[4][0]) for place in found))
        self._looked_at = time.monotonic()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

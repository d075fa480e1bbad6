"""The replicas behind some URLs, and what each of them says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from metalm.credentials import NOBODY, Credentials
from metalm.hosts import Host
from metalm.top.exposition import MEDIA_TYPE, Change, Reading
from metalm.transports import checked_url, connect
from metalm.transports.http import HttpTransport
from metalm_proto.errors import InternalError, InvalidArgument, MetaLMError

_AT_ONCE = 16


class Replica:
    """One address. `reading`: the last one, None while it does not answer; `change`: between the
    last two; `trouble`: why it does not answer."""

    def __init__(self, name: str, transport: HttpTransport) -> None:
        self.name = name
        self.reading: Reading | None = None
        self.change: Change | None = None
        self.trouble = ""
        self._transport = transport

    def look(self) -> None:
        before = self.reading
        self.reading = self.change = None
        try:
            reading = Reading.parse(self._transport.text("/metrics", MEDIA_TYPE))
            if reading.value("metalm_ready") is None:
                raise InternalError("what answers is no MetaLM service")
        except MetaLMError as error:
            self.trouble = str(error)
            return
        self.trouble = ""
        self.reading = reading
        self.change = Change(before, reading) if before is not None else None

    def close(self) -> None:
        self._transport.close()


class Replicas:
    """All addresses of the hosts of `urls`; a name's may come and go.

    Raises InvalidArgument for URLs that are none of an HTTP door.
    """

    def __init__(
        self, urls: Sequence[str], timeout_s: float, credentials: Credentials = NOBODY
    ) -> None:
        for url in urls:
            if checked_url(url).scheme not in ("http", "https"):
                bound = "http://HOST:PORT or https://HOST:PORT, where the metrics are"
                raise InvalidArgument("url", url, bound)
        self._hosts = [Host(url) for url in dict.fromkeys(urls)]
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._known: dict[tuple[str, str], Replica] = {}
        self._threads = ThreadPoolExecutor(_AT_ONCE, "metalm-top")

    def look(self) -> list[Replica]:
        """Asks all of them, at the same time."""
        found = dict(self._places())
        for place in self._known.keys() - found.keys():
            self._known.pop(place).close()
        for place, name in found.items():
            if place not in self._known:
                self._known[place] = self._replica(*place, name)
        replicas = [self._known[place] for place in found]
        list(self._threads.map(Replica.look, replicas))
        return replicas

    @property
    def lost_names(self) -> list[str]:
        """Why there are no addresses where there should be some."""
        return [host.said for host in self._hosts if host.said and not host.addresses()]

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for replica in self._known.values():
            replica.close()

    def _places(self) -> Iterator[tuple[tuple[str, str], str]]:
        """URL and address of each replica, and its name."""
        for host in self._hosts:
            parts = checked_url(host.url)
            addresses = host.addresses(sooner=True)
            # Its addresses are one replica, whichever it listens on.
            if parts.hostname == "localhost":
                addresses = ("",)
            for address in addresses:
                literal = f"[{address}]" if ":" in address else address
                port = "" if parts.port is None else f":{parts.port}"
                yield (host.url, address), f"{literal}{port}" if address else parts.netloc

    def _replica(self, url: str, address: str, name: str) -> Replica:
        transport = connect(
            url,
            timeout_s=self._timeout_s,
            address=address or None,
            credentials=self._credentials,
        )
        assert isinstance(transport, HttpTransport)
        return Replica(name, transport)

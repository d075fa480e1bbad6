"""A proxy that gives a service a path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote, unquote

import urllib3

from tests.service_process import Service


@contextmanager
def prefixed(service: Service, path: str) -> Iterator[str]:
    """The address below which a service is reached, and nothing else there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked, question, query = self.path.partition("?")
            prefix, slash, place = unquote(asked).partition(f"{path}/")
            if prefix or not slash:
                self.send_error(404)
                return
            headers = {"Accept": self.headers.get("Accept", "*/*")}
            answer = urllib3.request(
                "GET",
                f"{service.http}/{place}{question}{query}",
                headers=headers,
                redirect=False,
                retries=False,
            )
            self.send_response(answer.status)
            for name in ("Content-Type", "Content-Security-Policy"):
                self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.data)))
            self.end_headers()
            self.wfile.write(answer.data)

        def log_message(self, *_: object) -> None:
            pass

    # As browsers write it: they leave a quotation mark as it is.
    written = quote(path, safe="/'")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}{written}/"
        proxy.shutdown()

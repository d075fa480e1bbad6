"""`metalm top`, in pipes and in terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from metalm import MetaLMClient
from metalm.top.exposition import Change, Reading
from metalm.top.replicas import Replicas
from metalm.top.table import duration, quantity
from tests.command import COMMAND
from tests.door import opened
from tests.forked import run, running
from tests.service_process import Service

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def watched() -> Iterator[Service]:
    with running("--log-level", "warning") as service:
        yield service


@contextmanager
def load(url: str) -> Iterator[None]:
    """A client that takes batches all the while, and is refused now and then, and one whose only
    request runs all the while."""
    over = threading.Event()

    def take() -> None:
        with MetaLMClient(url) as client:
            for batch in client.batches(L=512, seed=1, batch_size=8):
                if batch.first % 8000 == 0:
                    urllib3.request("GET", f"{url}/sample?V=1")
                if over.is_set():
                    return

    thread = threading.Thread(target=take)
    thread.start()
    try:
        with opened(url) as door:
            slow = door.batches(L=2**16, count=1000)
            next(slow)
            yield
            slow.close()
    finally:
        over.set()
        thread.join()


def cells(line: str) -> list[str]:
    return line.split()


def test_once_prints_one_table(watched: Service) -> None:
    with load(watched.http):
        done = run("top", "--once", watched.http)
    titles, values = map(cells, done.stdout.decode().splitlines())
    told = dict(zip(titles, values, strict=True))
    assert told["replica"] == watched.http.removeprefix("http://")
    assert told["state"] == "ready"
    assert re.fullmatch(r"[0-9.e+]+[kMGT]?", told["tokens/s"])
    assert told["tokens/s"] != "0"
    for column in ("gen_p50", "gen_p99", "send_p50", "send_p99"):
        assert re.fullmatch(r"[0-9.e-]+m?s", told[column])
    assert float(told["running"]) >= 1
    assert re.fullmatch(r"\d+%", told["room_used"])
    assert done.stderr == b""


def test_an_idle_service_has_rates_of_zero_and_no_latencies() -> None:
    with running() as service:
        titles, values = map(cells, run("top", "--once", service.http).stdout.decode().splitlines())
    told = dict(zip(titles, values, strict=True))
    assert [told[name] for name in ("tokens/s", "batches/s", "refused/s")] == ["0", "0", "0"]
    assert told["gen_p99"] == told["send_p99"] == "-"


def test_each_replica_has_a_row_and_one_is_for_all(watched: Service) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = run("top", "--once", watched.http, gone, check=False)
    assert done.returncode == 1
    _, one, other, total = map(cells, done.stdout.decode().splitlines())
    assert one[:2] == [watched.http.removeprefix("http://"), "ready"]
    assert other[:2] == [gone.removeprefix("http://"), "gone"]
    assert set(other[2:]) == {"-"}
    assert total[:2] == ["all", "1/2"]
    assert gone in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_all_addresses_of_a_name_are_shown_and_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up, addresses = socket.getaddrinfo, ["127.0.0.1", "127.0.0.2"]

    def answer(host: Any, port: Any, *arguments: Any, **others: Any) -> Any:
        if host != "metalm.test":
            return look_up(host, port, *arguments, **others)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, port)) for at in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with running("--host", "0.0.0.0") as service:
        port = service.http.rpartition(":")[2]
        replicas = Replicas([f"http://metalm.test:{port}"], timeout_s=20)

        def names() -> list[str]:
            return [replica.name for replica in replicas.look() if replica.reading is not None]

        assert names() == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
        addresses[:] = ["127.0.0.2", "127.0.0.3"]
        until = time.monotonic() + 60
        while names() != [f"127.0.0.2:{port}", f"127.0.0.3:{port}"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        replicas.close()


def test_a_token_is_shown_where_one_is_wanted(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    with running(METALM_TOKENS=f"watcher {token.read_text()}") as service:
        done = run("top", "--once", service.http, "--token-file", str(token))
        assert b" ready " in done.stdout
        refused = run("top", "--once", service.http, check=False)
    assert refused.returncode == 1
    assert b" gone " in refused.stdout
    assert b"token" in refused.stderr


def test_localhost_is_one_replica(watched: Service) -> None:
    done = run("top", "--once", watched.http.replace("127.0.0.1", "localhost"))
    assert len(done.stdout.splitlines()) == 2


def test_what_is_no_service_is_told() -> None:
    with running() as service:
        url = f"{service.http}/docs"
        done = run("top", "--once", url, check=False)
    assert done.returncode == 1
    assert b"gone" in done.stdout
    assert url.encode() in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["grpc://127.0.0.1:1"], "where the metrics are"),
        (["inprocess:"], "where the metrics are"),
        (["nonsense"], "nonsense"),
        (["http://127.0.0.1:1", "--interval-s", "0"], "interval_s"),
    ],
    ids=str,
)
def test_wrong_usage_is_told(arguments: list[str], named: str) -> None:
    done = run("top", "--once", *arguments, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr.decode()


class Terminal:
    """`metalm top` in a terminal of some size. `text` is all that it wrote."""

    def __init__(self, *arguments: str, columns: int = 160, rows: int = 24, **environment: str):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*COMMAND, "top", "--interval-s", "0.2", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**inherited, "TERM": "xterm", **environment},
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def frames(self) -> list[list[str]]:
        """The screens that were drawn whole, without colours."""
        drawn = self.text.split("\x1b[H")[1:]
        whole = [frame.partition("\x1b[J")[0] for frame in drawn if "\x1b[J" in frame]
        return [ESCAPES.sub("", frame).replace("\r", "").splitlines() for frame in whole]

    def wait_for(self, pattern: str) -> list[str]:
        """The first frame from now on in which a line matches; within a minute."""
        already = len(self.frames())
        until = time.monotonic() + 60
        while True:
            for frame in self.frames()[already:]:
                if any(re.search(pattern, line) for line in frame):
                    return frame
            assert time.monotonic() < until, self.text[-2000:]
            self.read()

    def read(self) -> bool:
        """Takes what is there; whether there may be more."""
        ready, _, _ = select.select([self._master], [], [], 0.05)
        if ready:
            try:
                data = os.read(self._master, 2**16)
            except OSError:  # nobody has it open any more
                return False
            self.text += data.decode()
            return bool(data)
        return self.process.poll() is None

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        while self.read():
            pass
        return self.process.wait(60)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_a_terminal_is_drawn_again_and_again_and_given_back(watched: Service) -> None:
    with load(watched.http), Terminal(watched.http) as terminal:
        terminal.wait_for(r"ready +[0-9.]+[kMG]")
        terminal.wait_for(r"ready +[0-9.]+[kMG]")
        assert terminal.text.startswith("\x1b[?1049h\x1b[?25l")
        assert "\x1b[1m" in terminal.text
        assert terminal.end(signal.SIGINT) == 130
    assert terminal.text.rstrip("\r\n").endswith("\x1b[?25h\x1b[?1049l")
    assert "Traceback" not in terminal.text


def test_a_terminated_view_gives_the_terminal_back_too(watched: Service) -> None:
    with Terminal(watched.http) as terminal:
        terminal.wait_for("ready")
        assert terminal.end(signal.SIGTERM) == 143
    assert terminal.text.endswith("\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 100, 300])
def test_no_line_is_wider_than_the_terminal(watched: Service, columns: int) -> None:
    with Terminal(watched.http, watched.http + "/", columns=columns, rows=4) as terminal:
        frame = terminal.wait_for("127.0.0.1")
        assert terminal.end(signal.SIGINT) == 130
    assert max(map(len, frame)) <= columns
    assert len(frame) < 4
    assert ("tokens/s" in frame[0]) == (columns >= 40)
    assert ("cores" in frame[0]) == (columns == 300)


def test_no_colours_where_none_are_wanted(watched: Service) -> None:
    with Terminal(watched.http, NO_COLOR="1") as terminal:
        terminal.wait_for("ready")
        terminal.end(signal.SIGINT)
    assert "\x1b[1m" not in terminal.text
    assert "\x1b[31m" not in terminal.text


def test_a_terminal_that_knows_no_escapes_gets_none(watched: Service) -> None:
    with Terminal(watched.http, TERM="dumb") as terminal:
        while terminal.text.count(" ready") < 3:
            assert terminal.read()
        terminal.end(signal.SIGINT)
    assert "\x1b" not in terminal.text
    assert re.match(r"\d\d:\d\d:\d\d\r\n", terminal.text)


def test_a_replica_goes_and_comes_back(watched: Service) -> None:
    with running() as first:
        port = first.http.rpartition(":")[2]
        with Terminal(watched.http, first.http) as terminal:
            terminal.wait_for(rf":{port} +ready +\d")
            first.stop(signal.SIGKILL)
            frame = terminal.wait_for(rf":{port} +gone")
            assert any(line.startswith("all") and "1/2" in line for line in frame)
            # Why, in a line below the table.
            assert any(line.startswith(first.http) for line in frame)
            assert "\x1b[31m" in terminal.text
            with running("--port", port):
                terminal.wait_for(rf":{port} +ready +\d")
            assert terminal.end(signal.SIGINT) == 130


def test_a_reader_that_has_enough_ends_it(watched: Service) -> None:
    process = subprocess.Popen(
        [*COMMAND, "top", "--interval-s", "0.1", watched.http],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_readings_are_what_prometheus_own_parser_reads(watched: Service) -> None:
    text = urllib3.request("GET", f"{watched.http}/metrics").data.decode()
    expected = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
    }
    assert Reading.parse(text).series == expected


def reading(at_s: float, text: str) -> Reading:
    return Reading(Reading.parse(text).series, at_s)


def test_rates_and_quantiles_are_of_what_happened_between() -> None:
    before = reading(
        10,
        'c_total{door="http"} 100\nc_total{door="grpc"} 5\n'
        'h_bucket{le="1.0"} 7\nh_bucket{le="2.0"} 7\nh_bucket{le="+Inf"} 7\n',
    )
    after = reading(
        12,
        'c_total{door="http"} 160\nc_total{door="grpc"} 5\n# a comment\nno line at all }{\n'
        'h_bucket{le="1.0"} 11\nh_bucket{le="2.0"} 15\nh_bucket{le="+Inf"} 17\n',
    )
    change = Change(before, after)
    assert change.rate("c_total") == 30
    assert change.rate("d_total") is None
    # 4 up to 1, 4 more up to 2, 2 beyond.
    assert change.quantile("h", 0.2) == pytest.approx(0.5)
    assert change.quantile("h", 0.5) == pytest.approx(1.25)
    assert change.quantile("h", 0.9) == 2
    assert Change(after, after).quantile("h", 0.5) is None
    # A process that started anew meanwhile.
    assert Change(after, reading(14, 'c_total{door="http"} 8\n')).rate("c_total") == 4


def test_quantities_have_three_digits() -> None:
    assert [quantity(value) for value in (0, 0.5, 12.34, 999, 999.9, 1234, 2.41e8, 1e12)] == [
        *("0", "0.5", "12.3", "999", "1k", "1.23k", "241M", "1T"),
    ]  # fmt: skip
    assert [duration(value) for value in (0.000123, 0.25, 0.9999, 12.5)] == [
        *("0.123ms", "250ms", "1s", "12.5s"),
    ]  # fmt: skip


def test_nothing_of_it_needs_more_than_the_client() -> None:
    code = (
        "import metalm.top.command, sys;"
        "assert not {'prometheus_client', 'metalm_service', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

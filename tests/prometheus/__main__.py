"""A real Prometheus scrapes a real service, and its sums are those of the client."""

from __future__ import annotations

import json
import operator
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from metalm import LimitExceeded, MetaLMClient
from tests.door import opened
from tests.service_process import Service, running

RULES = Path(__file__).parents[2] / "docker" / "prometheus"
CONFIG = """
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}/rules.yml, {rules}/alerts.yml]
scrape_configs:
  - job_name: metalm
    static_configs: [{{targets: [{targets}]}}]
"""
WAIT_S = 60
T = TypeVar("T")


class Prometheus:
    """The server's own interface (`/api/v1`)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool = urllib3.PoolManager(retries=False, timeout=10)

    def get(self, path: str, **fields: str) -> Any:
        answer = self._pool.request("GET", f"{self._url}/api/v1/{path}", fields=fields)
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {answer.data!r}")
        return json.loads(answer.data)["data"]

    def query(self, expression: str) -> dict[str, float]:
        """Values by door, or by whatever else is the only label that remains."""
        found = self.get("query", query=expression)["result"]
        return {",".join(series["metric"].values()): float(series["value"][1]) for series in found}

    def is_up(self) -> bool:
        try:
            return self._pool.request("GET", f"{self._url}/-/ready").status == 200
        except urllib3.exceptions.HTTPError:
            return False


def eventually(what: str, look: Callable[[], T], right: Callable[[T], bool]) -> T:
    until = time.monotonic() + WAIT_S
    while not right(found := look()):
        if time.monotonic() > until:
            sys.exit(f"metrics-test: FAILED: {what}: {found}")
        time.sleep(0.1)
    print(f"metrics-test: {what}: {found}")
    return found


@contextmanager
def prometheus(targets: list[str]) -> Iterator[Prometheus]:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "prometheus.yml")
        names = ", ".join(f'"{target.removeprefix("http://")}"' for target in targets)
        config.write_text(CONFIG.format(rules=RULES, targets=names))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        with Path(directory, "log").open("w+") as log:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory}/data",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )
            try:
                server = Prometheus(f"http://{address}")
                eventually("Prometheus answers", server.is_up, bool)
                yield server
            except BaseException:
                log.seek(0)
                print(log.read()[-4000:], file=sys.stderr)
                raise
            finally:
                process.terminate()
                process.wait(30)


def promtool(text: str) -> None:
    """Prometheus' own opinion on the names and the texts."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    if done.returncode or done.stdout or done.stderr:
        sys.exit(f"metrics-test: FAILED: promtool check metrics: {done.stdout}{done.stderr}")
    print("metrics-test: promtool check metrics: clean")


def load(service: Service) -> dict[str, dict[str, float]]:
    """Batches through both doors, and some refusals; what the client counted."""
    counted: dict[str, dict[str, float]] = {}
    for door in ("http", "grpc"):
        samples = tokens = batches = 0
        with MetaLMClient(getattr(service, door)) as client:
            for batch in client.batches(L=1000, seed=1, batch_size=24, stop=10_000):
                batches, samples = batches + 1, samples + batch.size
                tokens += batch.x.size
        with opened(getattr(service, door)) as asked:
            for _ in range(7):
                with suppress(LimitExceeded):
                    asked.sample(L=2**26)
        counted[door] = {"batches": batches, "samples": samples, "tokens": tokens}
    return counted


def main() -> None:
    with running("--log-level", "warning") as service:
        with prometheus([service.http]) as server:
            # A scrape before, or the first thing that is seen is no growth.
            eventually("targets up", lambda: server.query("up"), lambda up: 1.0 in up.values())
            counted = load(service)
            for name in ("batches", "samples", "tokens"):
                expected = {door: float(sums[name]) for door, sums in counted.items()}
                eventually(
                    f"metalm_{name}_total as the client counted",
                    partial(server.query, f"sum by (door) (metalm_{name}_total)"),
                    partial(operator.eq, expected),
                )
            refusals = 'sum by (door) (metalm_refusals_total{reason="LIMIT_EXCEEDED"})'
            eventually(
                "refusals as the client counted",
                lambda: server.query(refusals),
                lambda found: found == {"http": 7, "grpc": 7},
            )
            eventually(
                "series of a scrape, at most 500",
                lambda: server.query("sum(scrape_samples_scraped)"),
                lambda found: 100 < found.get("", 0) <= 500,
            )
            eventually(
                "the recorded rate",
                lambda: server.query("sum(job:metalm_tokens:rate2m)"),
                lambda found: found.get("", 0) > 0,
            )
            groups = server.get("rules")["groups"]
            wrong = [r["name"] for g in groups for r in g["rules"] if r.get("lastError")]
            if wrong or len(groups) < 4:
                sys.exit(f"metrics-test: FAILED: rules {wrong}")
            firing = [alert["labels"] for alert in server.get("alerts")["alerts"]]
            print(f"metrics-test: {sum(len(g['rules']) for g in groups)} rules, alerts: {firing}")
        promtool(urllib3.request("GET", f"{service.http}/metrics").data.decode())
    print("metrics-test: passed")


main()

"""What a running service tells Prometheus, read with Prometheus' own parsers."""

from __future__ import annotations

import time
from collections.abc import Callable

import urllib3
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

OPENMETRICS = "application/openmetrics-text"


class Scrape:
    """The series of one moment."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.metrics = metrics
        self.series = [sample for metric in metrics for sample in metric.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the series of a name that have these labels."""
        return sum(
            sample.value
            for sample in self.series
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def scrape(url: str, accept: str = "text/plain") -> Scrape:
    answer = urllib3.request("GET", f"{url}/metrics", headers={"Accept": accept}, retries=False)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(accept)
    parse = openmetrics if accept == OPENMETRICS else text
    return Scrape(list(parse(answer.data.decode())))


def scraped_when(url: str, happened: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape for which something is so; within a minute."""
    until = time.monotonic() + 60
    while not happened(found := scrape(url)):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
    return found


def grown(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    return after(name, **labels) - before(name, **labels)

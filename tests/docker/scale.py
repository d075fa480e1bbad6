"""`python -m tests.docker.scale`: trainers inside the network of `compose up --scale service=3`, while
one replica is killed and comes back and another is restarted.

Called by tests/docker/run.sh once the replicas run. COMPOSE_PROJECT_NAME names their project.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.checker import BATCH_SIZE, SPEC, findings, recorded

REPLICAS = 3
BATCHES = 10_000
"""Of each trainer, at least."""
LEAST_SHARE = 0.1
"""Of all bytes, by each replica, although two of them are away for a while."""
_ENOUGH_BYTES = 2_000_000
"""From a replica, to say that it takes part; a batch has some 2 kB."""
_WAIT_S = 180
_TESTS = Path(__file__).parents[1]


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def wait_until(happened: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _WAIT_S
    while not happened():
        if time.monotonic() > until:
            raise RuntimeError(f"not in {_WAIT_S} s: {what}")
        time.sleep(0.1)


@dataclass
class Replica:
    """`sent_before`: bytes that it had sent when it was last stopped."""

    container: str
    sent_before: int = 0

    def healthy(self) -> bool:
        return (
            docker("inspect", "--format", "{{.State.Health.Status}}", self.container) == "healthy"
        )

    def sent(self) -> int:
        """Bytes that it has sent since it was started."""
        lines = docker("exec", self.container, "cat", "/proc/net/dev").splitlines()
        (counters,) = (line.partition(":")[2].split() for line in lines if "eth0:" in line)
        return int(counters[8])

    def take_part(self) -> None:
        wait_until(self.healthy, f"{self.container} is healthy")
        wait_until(lambda: self.sent() > _ENOUGH_BYTES, f"{self.container} takes part")

    def all_sent(self) -> int:
        return self.sent_before + self.sent()


class Trainer:
    """A process of tests.chaos.trainer in a container of the replicas' network."""

    def __init__(self, url: str, folder: Path, network: str) -> None:
        self.record = folder / f"{url.partition(':')[0]}.record"
        self.stream: dict[str, Any] = {**SPEC, "batch_size": BATCH_SIZE, "seed": 7}
        arguments = {
            "urls": [url],
            "record": f"/records/{self.record.name}",
            "enough": "/records/enough",
            "stream": {**self.stream, "prefetch_bytes": 2**18},
            "count": BATCHES,
            "timeout_s": 10,
            "step_s": 0.001,
        }
        self.container = docker(
            *("run", "--detach", "--network", network, "--read-only", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--user", f"{os.getuid()}:{os.getgid()}"),
            *("--volume", f"{_TESTS}:/trainer/tests:ro", "--volume", f"{folder}:/records"),
            *("--workdir", "/trainer", "--entrypoint", "python3", "metalm-service"),
            *("-m", "tests.chaos.trainer", json.dumps(arguments)),
        )

    def batches(self) -> int:
        return len(recorded(self.record)) if self.record.exists() else 0

    def running(self) -> bool:
        return docker("inspect", "--format", "{{.State.Running}}", self.container) == "true"

    def failures(self) -> list[str]:
        """What is wrong with how it ended and what it was given."""
        status = docker("inspect", "--format", "{{.State.ExitCode}}", self.container)
        wrong = [] if status == "0" else [f"exit status {status}: {self.log()}"]
        given = recorded(self.record)
        if len(given) < BATCHES:
            wrong.append(f"{len(given)} batches, fewer than {BATCHES}")
        found = findings(given, count=max(BATCHES, len(given)), stream=self.stream)
        return wrong + [f"{one.kind} at sample {one.first}, {one.count} times" for one in found]

    def log(self) -> str:
        done = subprocess.run(["docker", "logs", self.container], capture_output=True, text=True)
        return done.stdout + done.stderr


def torment(replicas: list[Replica], trainers: list[Trainer]) -> None:
    """Takes replicas away under load; each takes part again before the next one goes."""

    def go_on() -> None:
        before = [trainer.batches() for trainer in trainers]
        more = [count + 500 for count in before]
        wait_until(
            lambda: all(t.batches() >= m for t, m in zip(trainers, more, strict=True)),
            "trainers go on with one replica fewer",
        )

    for replica in replicas:
        replica.take_part()
    killed, restarted, _ = replicas
    killed.sent_before = killed.sent()
    docker("kill", killed.container)
    go_on()
    docker("start", killed.container)
    killed.take_part()
    restarted.sent_before = restarted.sent()
    docker("stop", "--time", "30", restarted.container)
    go_on()
    docker("start", restarted.container)
    restarted.take_part()


def main() -> int:
    project = os.environ["COMPOSE_PROJECT_NAME"]
    labels = ("com.docker.compose.service=service", f"com.docker.compose.project={project}")
    filters = [word for label in labels for word in ("--filter", f"label={label}")]
    containers = docker("ps", "--quiet", *filters).split()
    if len(containers) != REPLICAS:
        raise RuntimeError(f"{len(containers)} replicas, not {REPLICAS}")
    replicas = [Replica(container) for container in containers]
    for replica in replicas:
        wait_until(replica.healthy, f"{replica.container} is healthy")
    trainers: list[Trainer] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            network = f"{project}_default"
            # One by one: what has been started is removed if the next cannot be.
            trainers.append(Trainer("http://service:8000", Path(folder), network))
            trainers.append(Trainer("grpc://service:50051", Path(folder), network))
            torment(replicas, trainers)
            (Path(folder) / "enough").touch()
            wait_until(lambda: not any(t.running() for t in trainers), "the trainers end")
            sent = [replica.all_sent() for replica in replicas]
            failures = [
                f"{trainer.record.stem}: {failure}"
                for trainer in trainers
                for failure in trainer.failures()
            ]
            gaps = [max(b.waited_s for b in recorded(t.record)[1:]) for t in trainers]
            batches = sum(trainer.batches() for trainer in trainers)
        except RuntimeError:
            for trainer in trainers:
                print(trainer.log(), file=sys.stderr)
            raise
        finally:
            for trainer in trainers:
                docker("rm", "--force", trainer.container)
    shares = [part / sum(sent) for part in sent]
    if min(shares) < LEAST_SHARE:
        failures.append(f"a replica sent {min(shares):.0%} of all bytes")
    told = ", ".join(f"{share:.0%}" for share in shares)
    print(f"{batches} batches over HTTP and gRPC; of the bytes the replicas sent {told};")
    print(f"one was killed, one stopped, both came back; longest wait {max(gaps):.2f} s")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())

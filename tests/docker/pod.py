"""`python -m tests.docker.pod`: the container of docker/kubernetes/base as options of `docker run`,
one a line. `python -m tests.docker.pod FOLDER`: that of docker/kubernetes/secured, with a folder for
each of its secrets in FOLDER.

What the profile "restricted" asks of a pod is asked of the engine in its own words; its other
settings are passed on. Anything that has no counterpart here is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kubernetes.manifests import (
    FOLDER,
    Manifest,
    built,
    container,
    environment,
    only,
    plain,
)

_UNITS = {"Mi": "m", "Gi": "g"}


def options(manifests: list[Manifest], secrets: Path) -> Iterator[str]:
    described = container(manifests)
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]["securityContext"]
    yield from _of_pod(dict(pod))
    yield from _of_container(dict(described["securityContext"]))
    for name, value in environment(manifests):
        yield from ("--env", f"{name}={value}")
    for mount in described.get("volumeMounts", ()):
        yield from ("--volume", f"{secrets / mount['name']}:{mount['mountPath']}:ro")
    resources = described["resources"]
    number, unit = re.findall(r"(\d+)(\D+)", resources["limits"]["memory"])[0]
    yield from ("--memory", number + _UNITS[unit])
    yield from ("--cpu-shares", str(1024 * int(resources["requests"]["cpu"])))


def _of_pod(context: dict[str, Any]) -> Iterator[str]:
    # The engine's own default profile, in force where no other is named.
    assert context.pop("seccompProfile") == {"type": "RuntimeDefault"}
    assert context.pop("runAsNonRoot") is True
    yield from ("--user", f"{context.pop('runAsUser')}:{context.pop('runAsGroup')}")
    yield from ("--group-add", str(context.pop("fsGroup")))
    assert not context, context


def _of_container(context: dict[str, Any]) -> Iterator[str]:
    assert context.pop("allowPrivilegeEscalation") is False
    yield from ("--security-opt", "no-new-privileges")
    assert context.pop("readOnlyRootFilesystem") is True
    yield "--read-only"
    for name in context.pop("capabilities")["drop"]:
        yield from ("--cap-drop", name)
    assert not context, context


if __name__ == "__main__":
    if len(sys.argv) > 1:
        found = options(built(FOLDER / "secured"), Path(sys.argv[1]).resolve())
    else:
        found = options(plain(FOLDER / "base"), Path())
    print("\n".join(found))

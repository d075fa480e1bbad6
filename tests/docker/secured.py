"""`python -m tests.docker.secured`: the image as docker/kubernetes/secured runs it.

Called by tests/docker/run.sh once there is an image. TLS at both doors, a token for whoever asks,
probes on a port of their own; certificate and tokens come from folders with the modes of a secret.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trustme
import urllib3

from metalm import MetaLMClient, MetaLMError, Unauthenticated
from tests.docker.pod import options
from tests.docker.scale import docker, wait_until
from tests.kubernetes.manifests import FOLDER, built, only

TOKEN = "one-of-the-tokens-of-this-test"
STREAM: dict[str, Any] = {"V": 64, "L": 256, "batch_size": 8, "seed": 7, "count": 20}


def write_secrets(folder: Path, group: int) -> Path:
    """The secrets as a cluster mounts them; the authority's certificate for clients."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "metalm-replicas.metalm")
    files = {
        "tls/tls.crt": b"".join(blob.bytes() for blob in certificate.cert_chain_pems),
        "tls/tls.key": certificate.private_key_pem.bytes(),
        "tokens/tokens": f"trainer {TOKEN}\n".encode(),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if os.geteuid() == 0:
            os.chown(path, 0, group)
            path.chmod(0o440)
        else:  # it is not ours to give to that group
            path.chmod(0o444)
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    return ca


def main() -> int:
    manifests = built(FOLDER / "secured")
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]["securityContext"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        ca = write_secrets(folder, pod["fsGroup"])
        ports = [word for port in (8000, 50051, 9090) for word in ("-p", f"127.0.0.1::{port}")]
        container = docker("run", "-d", *ports, *options(manifests, folder), "metalm-service")
        try:
            check(container, ca)
        except BaseException:
            subprocess.run(["docker", "logs", container], check=False)
            raise
        finally:
            docker("rm", "--force", "--volumes", container)
    print("as docker/kubernetes/secured has it: TLS and tokens at both doors, probes without")
    return 0


def check(container: str, ca: Path) -> None:
    places = {port: docker("port", container, str(port)) for port in (8000, 50051, 9090)}
    health = "{{.State.Health.Status}}"
    wait_until(lambda: docker("inspect", "--format", health, container) == "healthy", "healthy")
    pool = urllib3.PoolManager(retries=False)
    assert pool.request("GET", f"http://{places[9090]}/readyz").status == 200
    for url in (f"https://{places[8000]}", f"grpcs://{places[50051]}"):
        with MetaLMClient(url, ca=str(ca), token=TOKEN) as client:
            given = [batch.digest for batch in client.batches(**STREAM)]
        with MetaLMClient("inprocess:") as twin:
            assert given == [batch.digest for batch in twin.batches(**STREAM)]
        for token in (None, "another"):
            with MetaLMClient(url, ca=str(ca), token=token) as client:
                refused(client, Unauthenticated)
        with MetaLMClient(url, token=TOKEN, timeout_s=5) as client:
            refused(client, MetaLMError)
    changed = docker("diff", container)
    # The places where the secrets are mounted.
    assert set(changed.split()) <= {"A", "C", "/etc", *mounts()}, changed
    docker("stop", "--time", "30", container)
    assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"


def mounts() -> set[str]:
    return {"/etc/metalm", "/etc/metalm/tls", "/etc/metalm/tokens"}


def refused(client: MetaLMClient, error: type[MetaLMError]) -> None:
    try:
        client.sample(seed=7)
    except error:
        return
    raise AssertionError(f"not refused with {error.__name__}: {client.urls}")


if __name__ == "__main__":
    sys.exit(main())

"""Certificates that a test makes for itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


@dataclass
class Issued:
    """PEM files of a certificate, of its key, and of both."""

    cert: str
    key: str
    both: str


class Authority:
    """An authority of its own, whose certificate is in the PEM file `ca`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._authority = trustme.CA()
        self._count = 0
        self.ca = str(directory / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str, lives_s: float = 3600) -> Issued:
        """A certificate for the names; one that has expired where `lives_s` is negative."""
        self._count += 1
        issued = self._authority.issue_cert(
            *names, not_after=datetime.now(UTC) + timedelta(seconds=lives_s)
        )
        places = [str(self._directory / f"{self._count}.{kind}") for kind in ("cert", "key", "pem")]
        found = Issued(*places)
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(found.cert, append=number > 0)
        issued.private_key_pem.write_to_path(found.key)
        issued.private_key_and_cert_chain_pem.write_to_path(found.both)
        return found

    def flags(self, *names: str, lives_s: float = 3600) -> list[str]:
        """What a server needs to show a certificate."""
        issued = self.issue(*(names or ("localhost", "127.0.0.1")), lives_s=lives_s)
        return ["--tls-cert", issued.cert, "--tls-key", issued.key]

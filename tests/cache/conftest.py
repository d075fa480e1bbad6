"""Run by `make cache-test`, which installs nginx; where there is none, there is nothing here."""

from __future__ import annotations

import shutil

collect_ignore_glob = (
    [] if shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin") else ["test_*.py"]
)

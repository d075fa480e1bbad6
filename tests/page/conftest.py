"""Run by `make page-test`, which installs what is needed; elsewhere there is nothing here."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

WANTED = find_spec("playwright") is not None and shutil.which("chromium") is not None
collect_ignore_glob = [] if WANTED else ["test_*.py"]

if WANTED:
    from tests.page.fixtures import browser, explorer

    __all__ = ["browser", "explorer"]

"""Run by `make frameworks`, where the frameworks are installed; elsewhere there is nothing here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]

# The examples are scripts: what they import stands beside them.
sys.path.insert(0, str(Path(__file__).parents[2] / "client" / "examples"))

"""What every `metalm` imports and compiles. `tests.forked` has this imported, once, in the process
that it forks from."""

from __future__ import annotations

import gc
import os

# As the command does: gRPC reads it when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import metalm_service.server  # noqa: F401
from metalm_service.core import engine

engine.warm()
# What no collection looks at stays in memory that the processes share.
gc.freeze()

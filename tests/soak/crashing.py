"""Takes streams through all doors, for ever; made to be killed. Says when bytes have come."""

from __future__ import annotations

import sys
from itertools import cycle

from metalm import Overloaded
from metalm.transports import connect
from metalm_proto.spec import BatchRequest, Spec

if __name__ == "__main__":
    request = BatchRequest(spec=Spec(L=4096), seed=1, stop=2**15)
    transports = [connect(url, timeout_s=30) for url in sys.argv[1:]]
    streams = [transport.batches(request) for transport in transports]
    try:
        for stream in streams:
            next(stream)
    except Overloaded:
        sys.exit()
    print("begun", flush=True)
    for stream in cycle(streams):
        next(stream)

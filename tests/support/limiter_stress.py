"""A process of its own that takes from a limiter as fast as it can; several of them at once."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

#: A clock that stands still, in every process alike.
STANDING = 1000.0


class Blows(NamedTuple):
    """Calls that were met, per process; ``seconds`` from before the first to after the last."""

    met: list[int]
    seconds: float


def child(kind: str, place: str, key: str, per_minute: int, calls: int, own: str) -> None:
    """Each call takes one permit of ``key`` and one of a bucket of this process."""
    from proxy.core.errors import LimiterError
    from proxy.ratelimit.limiter import Bucket, Charge, RateLimiter
    from proxy.ratelimit.node import NodeLimiter
    from proxy.ratelimit.redis import RedisLimiter

    limiter: RateLimiter = (
        RedisLimiter.from_url(place)
        if kind == "redis"
        else NodeLimiter(Path(place), clock=lambda: STANDING)
    )
    charges = [Charge(Bucket(own, 1_000_000), 1), Charge(Bucket(key, per_minute), 1)]
    print("ready", flush=True)
    sys.stdin.readline()
    met = 0
    while calls:
        try:
            met += limiter.take(charges).refused is None
            calls -= 1
        except LimiterError:  # many at once: it was another's turn for too long
            time.sleep(0.001)
    print(json.dumps(met), flush=True)


def hammer(kind: str, place: str, keys: Sequence[str], per_minute: int, *, calls: int) -> Blows:
    """One process per key, ``calls`` each, which all begin together."""
    program = (
        "import sys, json; from tests.support.limiter_stress import child; "
        "child(*json.loads(sys.argv[1]))"
    )
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                json.dumps([kind, place, key, per_minute, calls, f"own-{number}"]),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, key in enumerate(keys)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        begin = time.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        met = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
        return Blows(met, time.monotonic() - begin)
    finally:
        for process in processes:
            process.kill()
            process.wait()

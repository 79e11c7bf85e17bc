"""wrk: as many requests as the contender can answer."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("post.lua")


class LoadFailed(Exception):
    """What was measured does not count: answers other than 2xx, broken connections."""


@dataclass(frozen=True)
class Throughput:
    """Of one run; ``longest_ms`` is the slowest single request."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    longest_ms: float


def run_wrk(
    folder: Path, port: int, request: bytes, *, connections: int, seconds: int
) -> Throughput:
    """One thread of wrk on the cores of this process.

    Raises:
        LoadFailed: An answer was not 2xx, or a connection broke.
    """
    message = folder / "request.http"
    message.write_bytes(request)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    done = subprocess.run(
        [*command, "-s", str(SCRIPT), f"http://127.0.0.1:{port}/"],
        env={"BENCH_REQUEST": str(message), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    return parse(done.stdout)


def parse(output: str) -> Throughput:
    """The line that the script prints."""
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise LoadFailed(f"wrk printed no result: {output[-500:]}")
    found = json.loads(lines[0].removeprefix("RESULT "))
    if not found["requests"]:
        raise LoadFailed("no request was answered in time")
    if found["not_2xx"] or found["broken"]:
        raise LoadFailed(
            f"of {found['requests']} requests {found['not_2xx']} were not answered with 2xx, "
            f"and {found['broken']} connections broke"
        )
    return Throughput(
        requests=found["requests"],
        seconds=found["duration_us"] / 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        longest_ms=found["max_us"] / 1e3,
    )

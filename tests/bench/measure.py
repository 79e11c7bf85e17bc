"""What the guards are held against, counted in a process of its own and printed as JSON.

Its own, because a profile function and greenlets do not mix: greenlets that were switched away
while it was set keep a trace of it, and whatever runs later in the process may stumble over it.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import gc
import json
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from proxy.core.usage_event import UsageEvent
from tests.bench.warm import EVENT, STREAM_HEAD, WarmWorker, chunk
from tests.support.wait import wait_until

_EVENTS = 20
#: The same word in a stream of either dialect, as each writes it.
OPENAI_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1677652288,'
    b'"model":"gpt-4.1","choices":[{"index":0,"delta":{"content":"word"},"logprobs":null,'
    b'"finish_reason":null}]}\n\n'
)
ANTHROPIC_EVENT = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"word"}}\n\n'
)
ANTHROPIC_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1",'
    b'"model":"gpt-4.1","usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)
#: Three that are not reached.
_LIMITS = dict.fromkeys(
    ("RATE_LIMIT_PER_IP_RPM", "RATE_LIMIT_PER_TOKEN_RPM", "RATE_LIMIT_PER_PROJECT_RPM"), "1000000"
)
_REQUESTS = 200
_TRACED = 100


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, WarmWorker(Path(folder)) as warm:
        for _ in range(50):  # caches, pools, specialised bytecode
            warm.ask()
        figures = {
            "request": _request(warm),
            "opcodes": _opcodes(warm),
            "switches": _switches(warm),
            "blocks": _blocks_that_stay(warm),
            "event": _event(warm),
            "publish": _publish(warm),
        }
    with tempfile.TemporaryDirectory() as folder, WarmWorker(Path(folder), **_LIMITS) as warm:
        for _ in range(50):
            warm.ask()
        figures["limited"] = _request(warm)
    for dialect, event in (("openai", OPENAI_EVENT), ("anthropic", ANTHROPIC_EVENT)):
        with tempfile.TemporaryDirectory() as folder, WarmWorker(Path(folder)) as warm:
            warm.serve(dialect)
            figures[f"opcodes_{dialect}"], figures[f"event_{dialect}"] = _routed_event(warm, event)
    print(json.dumps(figures))


def _request(warm: WarmWorker) -> Counter[str]:
    warm.settle()
    with warm.counting() as calls:
        warm.ask()
        warm.settle()
    return calls


def _opcodes(warm: WarmWorker) -> float:
    """Per request: a mean, since what is done once in many requests is in it."""
    warm.settle()
    with warm.counting_opcodes() as found:
        for _ in range(_TRACED):
            warm.ask()
            warm.settle()
    return found[0] / _TRACED


def _switches(warm: WarmWorker) -> int:
    """Of most requests: on a busy machine a response may come in two pieces now and then."""
    counted = []
    for _ in range(_TRACED):
        warm.settle()
        with warm.counting_switches() as found:
            warm.ask()
            warm.settle()
        counted.append(found[0])
    return statistics.mode(counted)


def _routed_event(warm: WarmWorker, event: bytes) -> tuple[float, Counter[str]]:
    """Opcodes and calls of the serving greenlet for one stream's events, all together."""
    rounds = 3 * _EVENTS
    begin = ANTHROPIC_START if event is ANTHROPIC_EVENT else b""
    warm.pieces = [STREAM_HEAD + (chunk(begin) if begin else b""), *[chunk(event)] * rounds]
    warm.client.sendall(warm.request())

    def send() -> None:
        for _ in range(_EVENTS):
            warm.go.set()
            warm.read(b"word")
            warm.read(b"\n\n")

    send()
    with warm.counting() as calls:
        send()
    with warm.counting_opcodes() as found:
        send()
    return found[0], calls


def _event(warm: WarmWorker) -> Counter[str]:
    """Of one stream's events, all together."""
    warm.pieces = [STREAM_HEAD, *[chunk(EVENT)] * 2 * _EVENTS, b"0\r\n\r\n"]
    warm.client.sendall(warm.request())
    for _ in range(_EVENTS):
        warm.go.set()
        warm.read(EVENT)
    with warm.counting() as calls:
        for _ in range(_EVENTS):
            warm.go.set()
            warm.read(EVENT)
    return calls


def _blocks_that_stay(warm: WarmWorker) -> float:
    """Memory blocks that one request leaves behind: the least of several rounds, since free lists
    and the like grow at first."""

    def blocks() -> int:
        wait_until(lambda: _drained(warm))  # its time and its memory are not the path's
        gc.collect()
        return sys.getallocatedblocks()

    rounds = []
    for _ in range(12):
        before = blocks()
        for _ in range(_REQUESTS):
            warm.ask()
        rounds.append((blocks() - before) / _REQUESTS)
    return min(rounds)


def _drained(warm: WarmWorker) -> bool:
    pump = warm.app._pump
    assert pump is not None
    waiting = sum(worker.pending for worker in pump.sink_workers)
    return not (len(warm.app._queue) or pump._batch or waiting)


def _publish(warm: WarmWorker) -> int:
    event = UsageEvent(
        started=1.0,
        request_id="r",
        endpoint="/v1/x",
        method="POST",
        client_ip="127.0.0.1",
        status_code=200,
        outcome="completed",
        duration_ms=1.0,
    )
    calls: list[str] = []
    note: Any = lambda frame, kind, argument: calls.append(kind)  # noqa: E731
    sys.setprofile(note)
    warm.app._queue.publish(event)
    sys.setprofile(None)
    return sum(kind in ("call", "c_call") for kind in calls)


if __name__ == "__main__":
    main()

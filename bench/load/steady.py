"""A steady number of requests a second, whether or not the ones before have been answered."""

import asyncio
import time
from dataclasses import dataclass

from bench.figures import percentile
from bench.load.connection import Connection, connect


@dataclass(frozen=True)
class Steady:
    """Milliseconds from before the request was sent, or its connection made, to its last byte."""

    taken_ms: list[float]
    failed: int

    @property
    def p50_ms(self) -> float:
        return percentile(self.taken_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        return percentile(self.taken_ms, 0.99)


async def steadily(port: int, request: bytes, *, per_second: float, seconds: float) -> Steady:
    """Requests at fixed times over kept-alive connections, as many as are needed."""
    idle: list[Connection] = []
    taken: list[float] = []
    started = time.perf_counter()

    async def one(due: float) -> bool:
        await asyncio.sleep(started + due - time.perf_counter())
        sent = time.perf_counter()
        try:
            connection = idle.pop() if idle else await connect(port)
            answer = await asyncio.wait_for(connection.ask(request), 60)
        except (OSError, TimeoutError):
            return False
        if not answer.complete or answer.status != 200:
            connection.close()
            return False
        taken.append((time.perf_counter() - sent) * 1e3)
        if not connection.closed:
            idle.append(connection)
        return True

    fine = await asyncio.gather(*(one(n / per_second) for n in range(int(per_second * seconds))))
    for connection in idle:
        connection.close()
    return Steady(taken, fine.count(False))

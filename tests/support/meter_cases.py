"""Ways to feed a response to a meter."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from itertools import pairwise

from proxy.usage.meter import UsageMeter
from proxy.usage.reading import Reading

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"


def meter(
    *chunks: bytes, kind: str = SSE, encoding: str = "", complete: bool = True, most: int = 10**7
) -> Reading:
    it = UsageMeter(kind, encoding, most)
    for chunk in chunks:
        it.feed(chunk)
    return finished(it, complete)


def finished(meter: UsageMeter, complete: bool = True) -> Reading:
    meter.finish(complete)
    return meter.reading


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def raw_deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    " DEFLATE": raw_deflate,
}


def chunked(stream: bytes, cuts: list[float]) -> list[bytes]:
    edges = [0, *sorted(int(cut * len(stream)) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]

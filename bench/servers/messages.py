"""An upstream that streams as Anthropic does, the words of :mod:`bench.servers.sse` at its pace.

Run as `python -m bench.servers.messages PORT EVENTS INTERVAL`.
"""

import asyncio
import json
import sys
from typing import Any, Final

from bench.load.message import MODEL
from bench.servers.sse import LAST_CHUNK, WORDS, Frames, chunk, serve


def _event(kind: str, **members: Any) -> bytes:
    data = json.dumps({"type": kind, **members}, separators=(",", ":"))
    return chunk(f"event: {kind}\ndata: {data}\n\n".encode())


_MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_bench0123456789abcdef",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 40, "output_tokens": 1},
}
ANTHROPIC: Final = Frames(
    begin=_event("message_start", message=_MESSAGE)
    + _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    words=[
        _event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        for word in WORDS
    ],
    usage=_event("content_block_stop", index=0)
    + _event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": 300},
    ),
    end=_event("message_stop") + LAST_CHUNK,
)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), ANTHROPIC))

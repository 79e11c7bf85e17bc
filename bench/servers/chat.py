"""What the upstreams answer: a chat completion of about 700 bytes, with the headers of a real one.

With the lines that each server adds itself (Server, Date, Content-Type, Content-Length, Connection)
a response has 22 header lines, as OpenAI's have.
"""

import json
from typing import Final

from bench.load.message import MODEL

ANSWER: Final = json.dumps(
    {
        "id": "chatcmpl-bench0123456789abcdefghijkl",
        "object": "chat.completion",
        "created": 1677652288,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "A reverse proxy takes requests for a server and answers them in "
                    "its name. Between an application and a model it can hold the key.",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 40,
            "completion_tokens": 31,
            "total_tokens": 71,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
    }
)
HEADERS: Final = {
    "x-request-id": "req_bench0123456789abcdef0123456789",
    "openai-organization": "org-bench",
    "openai-processing-ms": "1",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-limit-tokens": "200000",
    "x-ratelimit-remaining-tokens": "199960",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "12ms",
    "openai-project": "proj_bench0123456789abcdef",
    "cf-cache-status": "DYNAMIC",
    "x-content-type-options": "nosniff",
    "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
    "alt-svc": "h3=:443",
    "set-cookie": "__cf_bm=bench0123456789abcdef; path=/; HttpOnly; Secure; SameSite=None",
    "CF-RAY": "8f0123456789abcd-FRA",
}
ANSWER_HEADERS: Final = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())

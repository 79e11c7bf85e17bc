"""SSE responses as services send them. Only their texts are shortened.

`STREAMS` carries, beside each response, the usage and the source that must be read from it.
"""

from __future__ import annotations

from proxy.usage.counts import Usage
from tests.support.usage_samples import (
    CHAT,
    CHAT_COUNTED,
    CHAT_HEAD,
    CHAT_USAGE,
    RESPONSE,
    RESPONSE_COUNTED,
    RESPONSE_NAMED,
    RESPONSE_USAGE,
    RUN,
    RUN_COUNTED,
    RUN_USAGE,
    STEP,
)


def sse(*data: bytes, end: bytes = b"\n") -> bytes:
    """The data as a stream of unnamed events."""
    return b"".join(b"data: " + part + end * 2 for part in data)


def named(name: bytes, data: bytes) -> bytes:
    """One event with a name."""
    return b"event: " + name + b"\ndata: " + data + b"\n\n"


def chat_chunk(
    content: bytes = b"Hello", usage: bytes | None = b"null", finish: bytes = b"null"
) -> bytes:
    """A chat chunk as OpenAI sends it when usage was asked for; `usage=None` when it was not."""
    return (
        (CHAT_HEAD % b".chunk")
        + b'"choices":[{"index":0,"delta":{"content":"'
        + content
        + b'"},"logprobs":null,"finish_reason":'
        + finish
        + b"}]"
        + (b"" if usage is None else b',"usage":' + usage)
        + b"}"
    )


LATE_CHUNK = (CHAT_HEAD % b".chunk") + b'"choices":[],"usage":' + CHAT_USAGE + b"}"
STOP_CHUNK = chat_chunk(b"", finish=b'"stop"')
LOOK_ALIKE = chat_chunk(b'\\"usage\\":{\\"prompt_tokens\\":1}', None)
AZURE_FIRST = (
    b'{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[]}'
)
GROQ_LAST = (
    b'{"id":"chatcmpl-9","object":"chat.completion.chunk","created":1741570283,"model":"llama-3",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"req_1","usage":'
    b'{"queue_time":0.04,"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}}}'
)


def response_stream(status: bytes, usage: bytes = RESPONSE_USAGE, ending: bytes = b"") -> bytes:
    """A Responses stream that ends with `status`; `ending` replaces the data of the last event."""
    last = b'{"type":"response.%s","sequence_number":9,"response":%s}' % (
        status,
        RESPONSE % (status, usage),
    )
    created = b'{"type":"response.created","sequence_number":0,"response":%s}' % (
        RESPONSE % (b"in_progress", b"null")
    )
    delta = b'{"type":"response.output_text.delta","item_id":"msg_1","delta":"%s"}'
    return (
        named(b"response.created", created)
        + named(b"response.output_text.delta", delta % b"In")
        + named(b"response.output_text.delta", delta % b'\\"usage\\":{')
        + named(b"response." + status, ending or last)
    )


def message_stream(first: bytes, last: bytes | None) -> bytes:
    """Anthropic's stream; without a `last` it is cut behind the first event."""
    message = b'{"id":"msg_1","type":"message","model":"claude","content":[],"usage":%s}' % first
    stream = named(b"message_start", b'{"type":"message_start","message":%s}' % message)
    stream += named(b"ping", b'{"type": "ping"}')
    if last is None:
        return stream
    delta = b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":%s}' % last
    return (
        stream
        + named(b"content_block_delta", b'{"type":"content_block_delta","delta":{"text":"Hi"}}')
        + named(b"message_delta", delta)
        + named(b"message_stop", b'{"type":"message_stop"}')
    )


STREAMS: dict[str, tuple[bytes, Usage, str]] = {
    "chat": (
        sse(chat_chunk(), chat_chunk(b" you"), STOP_CHUNK, LATE_CHUNK, b"[DONE]"),
        CHAT_COUNTED,
        "reported",
    ),
    "chat that nobody asked": (
        sse(chat_chunk(usage=None), LOOK_ALIKE, chat_chunk(usage=None), b"[DONE]"),
        CHAT,
        "none",
    ),
    "chat with comments and CRLF": (
        b": PROCESSING\r\n\r\n: PROCESSING\r\n\r\n"
        + sse(chat_chunk(), STOP_CHUNK, LATE_CHUNK, b"[DONE]", end=b"\r\n"),
        CHAT_COUNTED,
        "reported",
    ),
    "chat with CR and a BOM": (
        b"\xef\xbb\xbf" + sse(chat_chunk(), LATE_CHUNK, b"[DONE]", end=b"\r"),
        CHAT_COUNTED,
        "reported",
    ),
    "usage beside the choices": (
        sse(chat_chunk(), chat_chunk(b"", CHAT_USAGE, b'"stop"'), b"[DONE]"),
        CHAT_COUNTED,
        "reported",
    ),
    "a chunk after the usage": (
        sse(chat_chunk(), LATE_CHUNK, AZURE_FIRST, chat_chunk(b""), b"[DONE]"),
        CHAT_COUNTED,
        "reported",
    ),
    "cumulative": (
        sse(
            *(chat_chunk(usage=CHAT_USAGE.replace(b":10,", b":%d," % n)) for n in range(1, 9)),
            chat_chunk(usage=CHAT_USAGE),
            b"[DONE]",
        ),
        CHAT_COUNTED,
        "reported",
    ),
    "azure": (
        sse(AZURE_FIRST, chat_chunk(usage=None), chat_chunk(usage=None), b"[DONE]"),
        CHAT,
        "none",
    ),
    "groq": (
        sse(chat_chunk(usage=None), GROQ_LAST, b"[DONE]"),
        Usage("llama-3", "chatcmpl-9", 1741570283, 19, 10, 29),
        "reported",
    ),
    "usage without a name": (
        sse(chat_chunk(usage=None), b'{"choices":[],"usage": ' + CHAT_USAGE + b"}", b"[DONE]"),
        CHAT_COUNTED,
        "reported",
    ),
    "an error with usage": (
        sse(
            chat_chunk(usage=None),
            b'{"error":{"code":502,"message":"x"},"choices":[],"usage":' + CHAT_USAGE + b"}",
        ),
        CHAT_COUNTED,
        "reported",
    ),
    "an error": (sse(chat_chunk()) + named(b"error", b'{"error":{}}'), CHAT, "none"),
    "response.completed": (response_stream(b"completed"), RESPONSE_COUNTED, "reported"),
    "response.incomplete": (response_stream(b"incomplete"), RESPONSE_COUNTED, "reported"),
    "response.failed": (response_stream(b"failed"), RESPONSE_COUNTED, "reported"),
    "response.failed without usage": (
        response_stream(b"failed", b"null"),
        RESPONSE_NAMED,
        "none",
    ),
    "response first, no type": (
        response_stream(
            b"completed",
            ending=b'{"response":' + RESPONSE % (b"completed", RESPONSE_USAGE) + b"}",
        ),
        RESPONSE_COUNTED,
        "reported",
    ),
    "assistants": (
        named(b"thread.created", b'{"id":"thread_abc","object":"thread","created_at":1710348074}')
        + named(b"thread.run.created", RUN % (b"queued", b"null"))
        + named(b"thread.run.step.completed", STEP)
        + named(b"thread.run.completed", RUN % (b"completed", RUN_USAGE))
        + named(b"done", b"[DONE]"),
        RUN_COUNTED,
        "reported",
    ),
    "assistants, event after data": (
        b"data: " + RUN % (b"queued", b"null") + b"\nevent: thread.run.queued\n\n"
        b"data: " + STEP + b"\nevent: thread.run.step.completed\n\n",
        Usage("gpt-4-turbo", "run_abc", 1710348075),
        "none",
    ),
    "several data lines": (
        b'data: {"id":"c","model":"m","created":1,\ndata: "usage"\ndata: : {"prompt_tokens":\n'
        b'data: 1,"completion_tokens":2,"total_tokens":3}}\n\n',
        Usage("m", "c", 1, 1, 2, 3),
        "reported",
    ),
    "no blank line at the end": (
        sse(chat_chunk(), LATE_CHUNK)[:-2],
        CHAT_COUNTED,
        "reported",
    ),
    "transcript": (
        sse(
            *(b'{"type":"transcript.text.delta","delta":"I"}' for _ in range(12)),
            b'{"type":"transcript.text.done","text":"I","usage":{"type":"tokens","input_tokens":14,'
            b'"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,'
            b'"total_tokens":59}}',
        ),
        Usage(None, None, None, 14, 45, 59, details={"audio_prompt_tokens": 14}),
        "reported",
    ),
    "image": (
        sse(
            b'{"type":"image_generation.partial_image","b64_json":"aa","created_at":1}',
            b'{"type":"image_generation.completed","b64_json":"aa","created_at":1620000000,'
            b'"usage":{"total_tokens":100,"input_tokens":50,"output_tokens":50}}',
        ),
        Usage(created=1620000000, prompt_tokens=50, completion_tokens=50, total_tokens=100),
        "reported",
    ),
    "usage in a choice": (
        sse(
            chat_chunk(usage=None),
            (CHAT_HEAD % b".chunk")
            + b'"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":'
            + CHAT_USAGE
            + b"}]}",
            b"[DONE]",
        ),
        CHAT_COUNTED,
        "reported",
    ),
    "message": (
        message_stream(
            b'{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,'
            b'"output_tokens":1,"service_tier":"standard"}',
            b'{"output_tokens":13,"input_tokens":null}',
        ),
        Usage(
            "claude",
            "msg_1",
            None,
            1110,
            13,
            1123,
            1000,
            details={"service_tier": "standard", "cache_write_tokens": 100},
        ),
        "reported",
    ),
    "message counted at its end": (
        message_stream(
            b'{"input_tokens":0,"output_tokens":0}', b'{"input_tokens":19,"output_tokens":13}'
        ),
        Usage("claude", "msg_1", None, 19, 13, 32),
        "reported",
    ),
    "message that an error ends": (
        message_stream(b'{"input_tokens":19,"output_tokens":1}', None)
        + named(b"error", b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}'),
        Usage("claude", "msg_1", None, 19, 1, 20),
        "partial",
    ),
    "one side is missing": (
        sse(chat_chunk(usage=None), b'{"choices":[],"usage":{"prompt_tokens":9}}', b"[DONE]"),
        Usage(CHAT.model, CHAT.response_id, CHAT.created, 9),
        "partial",
    ),
    "the tier stands in other chunks": (
        sse(
            b'{"id":"c","model":"m","service_tier":"flex","choices":[]}',
            b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}',
        ),
        Usage("m", "c", None, 1, 2, 3, details={"service_tier": "flex"}),
        "reported",
    ),
    "half a surrogate pair": (
        sse(chat_chunk(b"\\ud83d", CHAT_USAGE, b'"stop"'), b"[DONE]"),
        CHAT_COUNTED,
        "reported",
    ),
    "a raw control character": (
        sse(chat_chunk(b"a\x1bb", CHAT_USAGE, b'"stop"'), b"[DONE]"),
        CHAT_COUNTED,
        "reported",
    ),
    "NaN": (
        sse(
            chat_chunk(b"", CHAT_USAGE, b'"stop"').replace(
                b'"logprobs":null',
                b'"logprobs":{"content":[{"logprob":NaN},{"logprob":-Infinity}]}',
            ),
            b"[DONE]",
        ),
        CHAT_COUNTED,
        "reported",
    ),
    "half a surrogate pair in a response": (
        response_stream(b"completed").replace(b"In a grove", b"cut \\ud83d"),
        RESPONSE_COUNTED,
        "reported",
    ),
    "only comments": (b": ping\n\n: ping\n\n", Usage(), "none"),
    "empty": (b"", Usage(), "none"),
}

"""Answers as services send them, shortened in their texts only.

`STREAMS` and `BODIES` carry, beside each answer, what the meter must read from it.
"""

from __future__ import annotations

import orjson

from proxy.usage.counts import Usage

CHAT_USAGE = (
    b'{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,'
    b'"prompt_tokens_details":{"cached_tokens":7,"audio_tokens":0},"completion_tokens_details":'
    b'{"reasoning_tokens":3,"audio_tokens":0,"accepted_prediction_tokens":0,'
    b'"rejected_prediction_tokens":0}}'
)
CHAT_HEAD = (
    b'{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion%s",'
    b'"created":1741570283,"model":"gpt-4o-2024-08-06",'
)
CHAT = Usage("gpt-4o-2024-08-06", "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", 1741570283)
CHAT_COUNTED = Usage(CHAT.model, CHAT.response_id, CHAT.created, 19, 10, 29, 7, 3)

CHAT_BODY = (
    (CHAT_HEAD % b"")
    + b'"choices":[{"index":0,"message":{"role":"assistant","content":"Say \\"usage\\": {\\"total_'
    b'tokens\\": 5}","tool_calls":[{"id":"call_1","type":"function","function":{"name":"f",'
    b'"arguments":"{\\"usage\\":{\\"prompt_tokens\\":1}}"}}],"refusal":null,"annotations":[]},'
    b'"logprobs":null,"finish_reason":"stop"}],"usage":'
    + CHAT_USAGE
    + b',"service_tier":"default","system_fingerprint":"fp_fc9f1d7035"}\n'
)
RESPONSE = (
    b'{"id":"resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b","object":"response",'
    b'"created_at":1741476542,"status":"%s","error":null,"instructions":null,'
    b'"model":"gpt-4.1-2025-04-14","output":[{"type":"message","id":"msg_1","status":"completed",'
    b'"role":"assistant","content":[{"type":"output_text","text":"In a grove","annotations":[]}]}],'
    b'"tool_usage":{"image_gen":{"input_tokens":0,"output_tokens":0},"input_tokens":0},'
    b'"temperature":1.0,"tools":[],"truncation":"disabled","usage":%s,"user":null,"metadata":{}}'
)
RESPONSE_USAGE = (
    b'{"input_tokens":36,"input_tokens_details":{"cached_tokens":2},"output_tokens":87,'
    b'"output_tokens_details":{"reasoning_tokens":64},"total_tokens":123}'
)
RESPONSE_NAMED = Usage(
    "gpt-4.1-2025-04-14", "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b", 1741476542
)
RESPONSE_COUNTED = Usage(
    RESPONSE_NAMED.model, RESPONSE_NAMED.response_id, RESPONSE_NAMED.created, 36, 87, 123, 2, 64
)
RUN = (
    b'{"id":"run_abc","object":"thread.run","created_at":1710348075,"assistant_id":"asst_abc",'
    b'"thread_id":"thread_abc","status":"%s","model":"gpt-4-turbo","instructions":null,"tools":[],'
    b'"metadata":{},"usage":%s}'
)
RUN_USAGE = (
    b'{"prompt_tokens":20,"completion_tokens":11,"total_tokens":31,"prompt_token_details":'
    b'{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":0}}'
)
STEP = (
    b'{"id":"step_001","object":"thread.run.step","created_at":1710348076,"run_id":"run_abc",'
    b'"type":"message_creation","status":"completed","usage":'
    b'{"prompt_tokens":20,"completion_tokens":11,"total_tokens":31}}'
)
RUN_COUNTED = Usage("gpt-4-turbo", "run_abc", 1710348075, 20, 11, 31, 4, 0)

BODIES: dict[str, tuple[bytes, Usage]] = {
    "chat": (CHAT_BODY, CHAT_COUNTED),
    "completion": (
        b'{\n  "id": "cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7",\n  "object": "text_completion",\n '
        b' "created": 1589478378,\n  "model": "gpt-3.5-turbo-instruct",\n  "choices": [{"text": '
        b'"\\n\\nThis is a test", "index": 0, "finish_reason": "length"}],\n  "usage": {\n    "prompt_tokens": 5,'
        b'\n    "completion_tokens": 7,\n    "total_tokens": 12\n  }\n}\n',
        Usage("gpt-3.5-turbo-instruct", "cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7", 1589478378, 5, 7, 12),
    ),
    "embeddings": (
        b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.0023064255,'
        b'-0.009327292]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,'
        b'"total_tokens":8}}',
        Usage("text-embedding-3-small", prompt_tokens=8, total_tokens=8),
    ),
    "response": (RESPONSE % (b"completed", RESPONSE_USAGE), RESPONSE_COUNTED),
    "response in the background": (RESPONSE % (b"queued", b"null"), RESPONSE_NAMED),
    "image": (
        b'{"created":1713833628,"data":[{"b64_json":"iVBORw0KGgo="}],"usage":{"total_tokens":100,'
        b'"input_tokens":50,"output_tokens":50,"input_tokens_details":{"text_tokens":10,'
        b'"image_tokens":40}}}',
        Usage(created=1713833628, prompt_tokens=50, completion_tokens=50, total_tokens=100),
    ),
    "image without usage": (
        b'{"created":1589478378,"data":[{"url":"https://files.example/1"}]}',
        Usage(created=1589478378),
    ),
    "transcription": (
        b'{"text":"Imagine the wildest idea","usage":{"type":"tokens","input_tokens":14,'
        b'"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,'
        b'"total_tokens":59}}',
        Usage(prompt_tokens=14, completion_tokens=45, total_tokens=59),
    ),
    "transcription by the second": (
        b'{"text":"Hi","usage":{"type":"duration","seconds":9}}',
        Usage(),
    ),
    "moderation": (
        b'{"id":"modr-AB8CjOTu2jiq12hp1AQPfeqFWaORR","model":"omni-moderation-latest","results":'
        b'[{"flagged":false,"categories":{"harassment":false},"category_scores":{}}]}',
        Usage("omni-moderation-latest", "modr-AB8CjOTu2jiq12hp1AQPfeqFWaORR"),
    ),
    "run": (RUN % (b"completed", RUN_USAGE), RUN_COUNTED),
    "run step": (STEP, Usage()),
    "without a total": (
        b'{"id":"m_1","model":"x","usage":{"input_tokens":4,"output_tokens":6}}',
        Usage("x", "m_1", None, 4, 6, 10),
    ),
    "both families": (
        b'{"model":"x","usage":{"prompt_tokens":4,"completion_tokens":6,"total_tokens":10,'
        b'"input_tokens":0,"output_tokens":0,"input_tokens_details":null}}',
        Usage("x", None, None, 4, 6, 10),
    ),
    "error": (
        b'{"error":{"message":"The model does not exist","type":"invalid_request_error",'
        b'"param":null,"code":"model_not_found"}}',
        Usage(),
    ),
    "usage twice": (
        b'{"model":"x","usage":{"prompt_tokens":1,"total_tokens":1},"a":[],'
        b'"usage":{"prompt_tokens":2,"total_tokens":2}}',
        Usage("x", prompt_tokens=2, total_tokens=2),
    ),
}


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
        Usage(prompt_tokens=14, completion_tokens=45, total_tokens=59),
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
    "only comments": (b": ping\n\n: ping\n\n", Usage(), "none"),
    "empty": (b"", Usage(), "none"),
}

# All of it once more as one value, so that a test can say: this object, decoded.
DECODED: dict[str, tuple[object, Usage]] = {
    name: (orjson.loads(body), usage) for name, (body, usage) in BODIES.items()
}

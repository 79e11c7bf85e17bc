"""JSON responses as services send them. Only their texts are shortened.

`BODIES` carries, beside each response, what must be read from it.
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
BODY_COUNTED = CHAT_COUNTED._replace(details={"service_tier": "default"})

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
    "chat": (CHAT_BODY, BODY_COUNTED),
    "completion": (
        b'{\n  "id": "cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7",\n  "object": "text_completion",\n '
        b' "created": 1589478378,\n  "model": "gpt-3.5-turbo-instruct",\n  "choices": [{"text": '
        b'"\\n\\nThis is a test", "index": 0, "finish_reason": "length"}],\n'
        b'  "usage": {\n    "prompt_tokens": 5,\n    "completion_tokens": 7,\n    '
        b'"total_tokens": 12\n  }\n}\n',
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
        Usage(None, None, 1713833628, 50, 50, 100, details={"image_prompt_tokens": 40}),
    ),
    "image without usage": (
        b'{"created":1589478378,"data":[{"url":"https://files.example/1"}]}',
        Usage(created=1589478378),
    ),
    "transcription": (
        b'{"text":"Imagine the wildest idea","usage":{"type":"tokens","input_tokens":14,'
        b'"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":45,'
        b'"total_tokens":59}}',
        Usage(None, None, None, 14, 45, 59, details={"audio_prompt_tokens": 14}),
    ),
    "transcription by the second": (
        b'{"text":"Hi","usage":{"type":"duration","seconds":9}}',
        Usage(details={"seconds": 9}),
    ),
    "transcription by parts of a second": (
        b'{"text":"Hi","usage":{"prompt_audio_seconds":8.4705,"prompt_tokens":3,"total_tokens":3}}',
        Usage(prompt_tokens=3, total_tokens=3, details={"seconds": 8.47}),
    ),
    "speech by the character": (
        b'{"model":"tts","usage":{"characters":120}}',
        Usage("tts", details={"characters": 120}),
    ),
    "rerank": (
        b'{"model":"rerank-1","results":[{"index":0}],"usage":{"total_tokens":15}}',
        Usage("rerank-1", total_tokens=15),
    ),
    "usage in a choice": (
        b'{"id":"c","model":"kimi","choices":[{"index":0,"message":{"content":"x"},'
        b'"finish_reason":"stop","usage":{"prompt_tokens":19,"completion_tokens":13,'
        b'"total_tokens":32,"cached_tokens":8}}]}',
        Usage("kimi", "c", None, 19, 13, 32, 8),
    ),
    "numbers in other spellings": (
        b'{"model":"m","created":1.7e9,"usage":{"prompt_tokens":19.0,"completion_tokens":1.3e1,'
        b'"total_tokens":320e-1}}',
        Usage("m", None, 1_700_000_000, 19, 13, 32),
    ),
    "message": (
        b'{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],'
        b'"usage":{"input_tokens":10,"cache_creation_input_tokens":100,'
        b'"cache_read_input_tokens":1000,"output_tokens":5,"service_tier":"standard"}}',
        Usage(
            "claude",
            "msg_1",
            None,
            1110,
            5,
            1115,
            1000,
            None,
            {"service_tier": "standard", "cache_write_tokens": 100},
        ),
    ),
    "spoken": (
        b'{"id":"c","object":"chat.completion","created":5,"model":"audio","service_tier":"flex",'
        b'"usage":{"prompt_tokens":60,"completion_tokens":40,"total_tokens":100,'
        b'"prompt_tokens_details":{"cached_tokens":8,"audio_tokens":30,"image_tokens":12,'
        b'"cache_write_tokens":4,"cached_tokens_details":{"text_tokens":3,"audio_tokens":5}},'
        b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":25,"image_tokens":2}}}',
        Usage(
            "audio",
            "c",
            5,
            60,
            40,
            100,
            8,
            0,
            {
                "service_tier": "flex",
                "cache_write_tokens": 4,
                "audio_prompt_tokens": 30,
                "image_prompt_tokens": 12,
                "audio_completion_tokens": 25,
                "image_completion_tokens": 2,
                "cached_audio_tokens": 5,
            },
        ),
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

# All of it once more as one value, so that a test can say: this object, decoded.
DECODED: dict[str, tuple[object, Usage]] = {
    name: (orjson.loads(body), usage) for name, (body, usage) in BODIES.items()
}

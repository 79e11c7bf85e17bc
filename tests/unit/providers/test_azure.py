"""Azure: paths of `v1` and of dated versions, one credential, and bodies as they are."""

from typing import Any

import pytest

from proxy.providers import PROVIDERS
from proxy.usage.meter import UsageMeter
from tests.support.provider_dialects import LINES, answered, call, refused, sent, target

DATED = "2024-10-21"
CHAT = '{"model":"gpt-4"}'


@pytest.mark.parametrize(
    ("version", "path", "url"),
    [
        ("v1", "/v1/chat/completions", "/openai/v1/chat/completions"),
        ("v1", "/v1/chat/completions?api-version=preview",
         "/openai/v1/chat/completions?api-version=preview"),
        ("v1", "/v1/responses", "/openai/v1/responses"),
        ("preview", "/v1/responses?a=%41", "/openai/v1/responses?a=%41&api-version=preview"),
        (DATED, "/v1/chat/completions",
         "/openai/deployments/my%2Fdep/chat/completions?api-version=2024-10-21"),
        (DATED, "/v1/embeddings?x=1",
         "/openai/deployments/my%2Fdep/embeddings?x=1&api-version=2024-10-21"),
        (DATED, "/v1/embeddings?api-version=1999&x=1&Api-Version=2",
         "/openai/deployments/my%2Fdep/embeddings?x=1&api-version=2024-10-21"),
        (DATED, "/v1/audio/transcriptions",
         "/openai/deployments/my%2Fdep/audio/transcriptions?api-version=2024-10-21"),
        # No deployment in the path (agentgateway#2482).
        (DATED, "/v1/responses", "/openai/responses?api-version=2024-10-21"),
        (DATED, "/v1/responses/resp_1/cancel",
         "/openai/responses/resp_1/cancel?api-version=2024-10-21"),
        (DATED, "/v1/files", "/openai/files?api-version=2024-10-21"),
    ],
)  # fmt: skip
def test_paths(version: str, path: str, url: str) -> None:
    where = target("azure", "https://r", "my/dep", api_version=version)
    prepared = call(where, path, CHAT)
    assert prepared.url == "https://r" + url
    assert prepared.request.target == url.encode()
    assert sent(prepared) == '{"model":"my/dep"}'


def test_v1_is_the_default() -> None:
    assert (
        call(target("azure", "https://r"), body=CHAT).url == "https://r/openai/v1/chat/completions"
    )


def test_the_clients_model_is_the_deployment_where_nothing_maps_it() -> None:
    where = target("azure", "https://r", api_version=DATED)
    assert "/deployments/gpt-4/" in call(where, body=CHAT).url
    assert refused(where, body='{"messages":[]}') == ("invalid_request", "model")


@pytest.mark.parametrize(
    ("version", "url"),
    [
        ("v1", "/openai/v1/realtime?model=dep&x=1"),
        (DATED, "/openai/realtime?deployment=dep&x=1&api-version=2024-10-21"),
    ],
)
def test_realtime(version: str, url: str) -> None:
    where = target("azure", "https://r", "dep", api_version=version)
    assert call(where, "/v1/realtime?model=gpt-rt&x=1").url == "https://r" + url


@pytest.mark.parametrize(
    ("auth", "line"),
    [
        ({}, ("api-key", "sk-up")),
        ({"auth": "api-key"}, ("api-key", "sk-up")),
        ({"auth": "bearer"}, ("Authorization", "Bearer sk-up")),
    ],
)
def test_one_credential(auth: dict[str, Any], line: tuple[str, str]) -> None:
    lines = [*LINES, ("Api-Key", "client"), ("Authorization", "Bearer client")]
    where = target("azure", **auth)
    assert call(where, "/v1/models", headers=lines).request.headers == [("Host", "h"), *LINES, line]
    bare = call(where, "/v1/models", headers=lines, key=None).request.headers
    assert bare == [("Host", "h"), *LINES]


@pytest.mark.parametrize("path", ["/v1", "/v2/models", "/V1/models", "/v1x/models"])
@pytest.mark.parametrize("version", ["v1", DATED])
def test_what_is_not_below_v1(path: str, version: str) -> None:
    assert refused(target("azure", api_version=version), path) == ("endpoint_not_supported", None)


FILTERED = """data: {"choices":[],"created":0,"id":"","model":"","object":"",\
"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]}

data: {"choices":[{"index":0,"finish_reason":null,"content_filter_offsets":{"check_offset":44}}]}

data: [DONE]

"""


def test_filter_results_pass() -> None:
    """Clients of Azure know the first chunk without choices and the last one without a delta."""
    assert answered(target("azure"), FILTERED) == FILTERED
    blocked = (
        '{"error":{"code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}'
    )
    head = [("Content-Type", "application/json")]
    assert PROVIDERS["azure"].transform(target("azure"), "/v1/x", 400, head) is None
    assert answered(target("azure"), blocked, status=400) == blocked


def test_a_choice_without_a_delta_is_metered() -> None:
    meter = UsageMeter("text/event-stream")
    counts = '{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}'
    meter.feed(FILTERED.replace("[DONE]", counts).encode())
    meter.finish(True)
    assert meter.reading.usage is not None
    assert meter.reading.usage.prompt_tokens == 9


@pytest.mark.parametrize("model", [".", ".."])
def test_a_deployment_is_no_dot_segment(model: str) -> None:
    where = target("azure", "https://r", api_version=DATED)
    assert refused(where, body=f'{{"model":"{model}"}}') == ("invalid_request", "model")
    mapped = target("azure", "https://r", model, api_version=DATED)
    assert refused(mapped, body=CHAT) == ("invalid_request", "model")

"""Which paths an upstream may take for an endpoint that generates or embeds text."""

import pytest

from proxy.gateway.generating_endpoints import generating


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/v1/chat/completions", "chat/completions"),
        ("/v1/chat/completions/", "chat/completions"),
        ("/v1//chat/./completions", "chat/completions"),
        ("/v1/Chat/COMPLETIONS", "chat/completions"),
        ("/v1/chat/x/../completions", "chat/completions"),
        ("/v1/chat/completions;v=1", "chat/completions"),
        ("/v1/ch%61t%2Fcompletions%20", "chat/completions"),
        ("/v1/chat\\completions", "chat/completions"),
        ("/v1/openai/deployments/gpt-4/chat/completions", "chat/completions"),
        ("/v1/completions", "completions"),
        ("/v1/engines/davinci/completions", "completions"),
        ("/v1/fim/completions", "…/completions"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/engines/ada/embeddings", "embeddings"),
        ("/v1/responses", "responses"),
        ("/v1/messages/", "messages"),
        ("/v1/responses/resp_1", None),
        ("/v1/messages/count_tokens", None),
        ("/v1/threads/thread_1/messages", None),
        ("/v1/images/generations", None),
        ("/v1/", None),
        ("/..", None),
    ],
)
def test_by_path(path: str, endpoint: str | None) -> None:
    assert generating("POST", path) == endpoint


def test_only_a_post_generates() -> None:
    assert generating("GET", "/v1/chat/completions") is None

"""Labels come from closed sets or are bounded in number, whatever clients send."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metrics import request_metrics

ROUTES = {
    *("chat", "completions", "embeddings", "responses", "images", "audio"),
    *("models", "files", "realtime", "other"),
}
METHODS = {
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "other"),
}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/chat", "chat"),
        ("/v1/completions", "completions"),
        ("/v1/responses/resp_1/cancel", "responses"),
        ("/v1/models/gpt-4.1", "models"),
        ("/v1/files/file-1/content", "files"),
        ("/v1/realtime", "realtime"),
        ("/v1/", "other"),
        ("/v1", "other"),
        ("//v1/chat", "other"),
        ("/v1//chat", "other"),
        ("/v1/Chat", "other"),
        ("/v1/chat%2Fcompletions", "other"),
        ("/v1/batches", "other"),
        ("/v1/management", "other"),
        ("/v1/status", "other"),
        ("/v2/chat", "other"),
        ("", "other"),
    ],
)
def test_routes(path: str, route: str) -> None:
    assert request_metrics.route_label(path) == route


@given(st.text())
def test_no_path_becomes_a_label(path: str) -> None:
    assert request_metrics.route_label(path) in ROUTES
    assert request_metrics.route_label(f"/v1/{path}") in ROUTES


@given(st.text())
def test_no_method_becomes_a_label(method: str) -> None:
    assert request_metrics.method_label(method) in METHODS


@pytest.mark.parametrize("method", ["PURGE", "get", "PROPFIND", "GET "])
def test_other_methods(method: str) -> None:
    assert request_metrics.method_label(method) == "other"


@pytest.mark.parametrize(
    ("code", "label"),
    [(200, "200"), (499, "499"), (101, "101"), (207, "207"), (299, "2xx"), (599, "5xx")],
)
def test_statuses(code: int, label: str) -> None:
    assert request_metrics.status_label(code) == label


def test_no_status_becomes_a_label() -> None:
    assert len({request_metrics.status_label(code) for code in range(100, 1000)}) < 80


@pytest.mark.parametrize("model", ["gpt-4.1", "ft:gpt-4o:org::id", "meta/llama-3@x", "o1"])
def test_models_named_by_upstreams_are_labels(model: str) -> None:
    assert request_metrics.Consumers().labels("p", model) == ("p", model)


@pytest.mark.parametrize(
    "model", ['a"} 1\nx{y="', "a b", "", "-x", "ü", "x" * 81, None, 7, ["m"], "\x00", "m\n"]
)
def test_invalid_model_names_are_other(model: object) -> None:
    assert request_metrics.Consumers().labels("p", model) == ("p", "other")


@given(st.lists(st.text(string.ascii_letters, min_size=1), max_size=300))
def test_models_are_bounded_and_the_first_keep_their_series(models: list[str]) -> None:
    consumers = request_metrics.Consumers(max_models=5)
    seen = [consumers.labels("p", model)[1] for model in models]
    assert len(set(seen)) <= 6
    assert [consumers.labels("p", model)[1] for model in models] == seen


def test_pairs_are_bounded() -> None:
    consumers = request_metrics.Consumers(max_pairs=3)
    found = {consumers.labels(f"p{number}", "m") for number in range(10)}
    assert found == {("p0", "m"), ("p1", "m"), ("p2", "m"), ("other", "other")}
    assert consumers.labels("p1", "m") == ("p1", "m")


def test_invented_names_of_one_token_leave_room_for_others() -> None:
    consumers = request_metrics.Consumers()
    found = [consumers.labels("p", f"made-up-{number}", "t") for number in range(1000)]
    assert len(set(found)) == 17
    assert found[15:17] == [("p", "made-up-15"), ("p", "other")]
    assert consumers.labels("p", "gpt-4.1", "t2") == ("p", "gpt-4.1")
    assert consumers.labels("p", "gpt-4.1", "t") == ("p", "gpt-4.1"), "another has introduced it"
    assert consumers.labels("p2", "gpt-4.1", "t3") == ("p2", "gpt-4.1")


def test_invented_names_of_minted_tokens_leave_room_for_others() -> None:
    consumers = request_metrics.Consumers()
    for number in range(1000):
        consumers.labels("p", f"made-up-{number}", f"t{number}")
    assert len(consumers._pairs) == 49
    assert consumers.labels("p2", "gpt-4.1", "t") == ("p2", "gpt-4.1")


def test_in_passthrough_each_key_has_a_limit() -> None:
    consumers = request_metrics.Consumers()
    for number in range(1000):
        consumers.labels("other", f"made-up-{number}", "key:1")
    assert consumers.labels("other", "gpt-4.1", "key:2") == ("other", "gpt-4.1")
    for number in range(40):
        assert consumers.labels("other", f"m{number}", f"k{number}")[1] != "other"

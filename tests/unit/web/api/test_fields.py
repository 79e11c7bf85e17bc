"""Fields: everything odd is refused by name, and nothing is guessed."""

from datetime import UTC, datetime
from typing import Any

import flask
import pytest

from proxy.core.errors import ClientError
from proxy.web.api import fields

app = flask.Flask("test")


def body(raw: bytes | str, **environ: Any) -> dict[str, Any]:
    with app.test_request_context("/", method="POST", data=raw, **environ):
        return fields.read_object(flask.request, {"a", "b"})


def query(string: str) -> dict[str, str]:
    with app.test_request_context("/?" + string):
        return fields.read_query(flask.request, {"a", "b", "limit", "active"})


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
def test_a_body_is_read_whatever_it_calls_itself(content_type: str | None) -> None:
    assert body('{"a": 1, "b": null}', content_type=content_type) == {"a": 1, "b": None}


def test_of_two_the_last_counts() -> None:
    assert body('{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    "raw", ["", "{", "[]", "1", '"a"', "null", "{'a': 1}", '{"a": NaN}', b"\xff", b'{"a":"\xff"}']
)
def test_other_bodies_are_refused(raw: bytes | str) -> None:
    with pytest.raises(ClientError) as caught:
        body(raw)
    assert caught.value.code == "invalid_request"


def test_lone_surrogates_never_reach_a_database() -> None:
    with pytest.raises(ClientError):
        body('{"a": "\\ud800"}')


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(ClientError, match="'c'") as caught:
        body('{"a": 1, "c": 2}')
    assert caught.value.param == "c"
    with pytest.raises(ClientError, match="query parameter: 'c'"):
        query("a=1&c=2")


@pytest.mark.parametrize("declared", [True, False])
def test_the_size_is_bounded(declared: bool) -> None:
    raw = b'{"a": "' + b"x" * fields.MAX_BODY_BYTES + b'"}'
    extra = {} if declared else {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    with pytest.raises(ClientError) as caught:
        body(raw, environ_overrides=extra)
    assert caught.value.code == "request_too_large"


def test_a_body_that_ends_early() -> None:
    with pytest.raises(ClientError, match="ended early"):
        body(b'{"a": 1}', environ_overrides={"CONTENT_LENGTH": "100"})


def test_a_chunked_body() -> None:
    terminated = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    assert body(b'{"a": 1}', environ_overrides=terminated) == {"a": 1}


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "a\x00", "x" * 256, 1, None, True, ["a"]])
def test_names(value: Any) -> None:
    assert fields.name("  Ünïcode ☃  ") == "Ünïcode ☃"
    with pytest.raises(ClientError) as caught:
        fields.name(value)
    assert caught.value.param == "name"


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 11, -1, 1e30])
def test_integers(value: Any) -> None:
    assert fields.integer(10, "n", 1, 10) == 10
    with pytest.raises(ClientError) as caught:
        fields.integer(value, "n", 1, 10)
    assert caught.value.param == "n"


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_booleans(value: Any) -> None:
    assert fields.boolean(True, "b") is True
    with pytest.raises(ClientError):
        fields.boolean(value, "b")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-05-20T00:03:00Z", datetime(2026, 5, 20, 0, 3, tzinfo=UTC)),
        ("2026-05-20t00:03:00.5z", datetime(2026, 5, 20, 0, 3, 0, 500000, tzinfo=UTC)),
        ("2026-05-20 02:03:00+02:00", datetime(2026, 5, 20, 0, 3, tzinfo=UTC)),
        ("2026-05-20T00:03:00.123456789Z", datetime(2026, 5, 20, 0, 3, 0, 123456, tzinfo=UTC)),
    ],
)
def test_moments(value: str, expected: datetime) -> None:
    assert fields.parse_datetime(value, "t") == expected


@pytest.mark.parametrize(
    "value",
    [
        "2026-05-20T00:03:00",
        "2026-05-20",
        "20260520T000300Z",
        "2026-02-31T00:00:00Z",
        "2026-05-20T24:00:01Z",
        "0001-01-01T00:00:00+23:59",
        "0000-01-01T00:00:00Z",
        "2026-05-20T00:03:00+0200",
        "2026-05-20T00:03:00Z\n",
        1779235380,
        None,
    ],
)
def test_other_moments_are_refused(value: Any) -> None:
    with pytest.raises(ClientError, match="RFC 3339"):
        fields.parse_datetime(value, "t")


def test_choices_are_spelled_exactly() -> None:
    assert fields.choice("b", "f", ("a", "b")) == "b"
    wrong: list[Any] = ["", "c", "B", "ab", "a ", None, True, 1, ["a"], {"a": 1}]
    for value in wrong:
        with pytest.raises(ClientError, match=r"`f` must be one of: `a`, `b`\.") as caught:
            fields.choice(value, "f", ("a", "b"))
        assert caught.value.param == "f"


def test_objects_are_bounded() -> None:
    assert fields.json_object({"a": [1]}, "metadata") == {"a": [1]}
    for value in ([], "x", {"a": "x" * fields.MAX_METADATA_BYTES}):
        with pytest.raises(ClientError) as caught:
            fields.json_object(value, "metadata")
        assert caught.value.param == "metadata"


def test_ids() -> None:
    upper = "0190E0F0-0000-7000-8000-000000000000"
    assert fields.path_id(upper, "token") == upper.lower()
    for value in ("", "x", upper.replace("-", ""), "{" + upper + "}", upper + "\n"):
        with pytest.raises(ClientError) as caught:
            fields.path_id(value, "token")
        assert caught.value.code == "not_found"
        with pytest.raises(ClientError) as caught:
            fields.query_id({"a": value}, "a")
        assert caught.value.code == "invalid_request"
    assert fields.query_id({}, "a") is None


def test_query_values() -> None:
    assert [fields.query_boolean(query(f"active={v}"), "active") for v in ("true", "1")] == [
        True
    ] * 2
    assert [fields.query_boolean(query(f"active={v}"), "active") for v in ("False", "0")] == [
        False
    ] * 2
    assert fields.query_boolean({}, "active") is None
    assert fields.query_integer(query("limit=1000"), "limit", 1000) == 1000
    assert fields.query_integer({}, "limit", 1000) is None
    for bad in ("active=", "active=yes"):
        with pytest.raises(ClientError):
            fields.query_boolean(query(bad), "active")
    for bad in ("limit=0", "limit=1001", "limit=-1", "limit=x", "limit=٣", "limit=" + "9" * 5000):
        with pytest.raises(ClientError):
            fields.query_integer(query(bad), "limit", 1000)


def test_aliases() -> None:
    assert fields.alias({}, "a", "b") == "a"
    assert fields.alias({"b": 1}, "a", "b") == "b"
    assert fields.alias({"a": 1, "b": 1}, "a", "b") == "a"
    with pytest.raises(ClientError) as caught:
        fields.alias({"a": 1, "b": 2}, "a", "b")
    assert caught.value.param == "b"


def test_times_go_out_in_utc() -> None:
    assert fields.rfc3339(None) is None
    when = fields.parse_datetime("2026-05-20T02:03:00+02:00", "t")
    assert fields.rfc3339(when) == "2026-05-20T00:03:00.000000Z"

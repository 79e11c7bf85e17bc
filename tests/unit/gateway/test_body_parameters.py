"""What a policy reads of a body; what two readers could read differently is refused."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.gateway import body_parameters
from proxy.gateway.body_parameters import parameters_of
from proxy.gateway.request import ClientRequest
from proxy.policy.policy import Policy
from proxy.usage.estimate import prompt_bytes
from proxy.usage.large import LargeValue
from tests.support.loop_probe import served_while
from tests.support.relay_factories import environ

WANTED = frozenset({"model", "n"})
JSON = "application/json"


def read(body: bytes, content_type: str | None = JSON, **headers: str) -> Any:
    lines = [] if content_type is None else [("Content-Type", content_type)]
    lines += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return parameters_of(ClientRequest(environ("POST", headers=lines), 0), body, WANTED)


def refused(body: bytes, content_type: str | None = JSON, **headers: str) -> ClientError:
    with pytest.raises(ClientError) as caught:
        read(body, content_type, **headers)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    assert str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; charset=us-ascii",
        "application/vnd.x+json",
        "text/plain",
        "application/octet-stream",
        "",
        None,
    ],
)
def test_json_whatever_it_is_called(content_type: str | None) -> None:
    assert read(b'{"model":"m","n":1}', content_type) == {"model": "m", "n": 1}
    refused(b"model=m&n=1", content_type)


def test_json_that_is_a_form_as_well() -> None:
    body = b'{"model":"ok","x":"&model=evil&"}'
    assert read(body)["model"] == "ok"
    refused(body, "application/x-www-form-urlencoded")
    refused(body, "application/json, application/x-www-form-urlencoded")


def test_two_content_types() -> None:
    refused(b'{"model":"m"}', JSON, Content_Type="text/plain")
    refused(b'{"model":"m"}', JSON, Content_Type=JSON)


def test_an_empty_body_names_nothing() -> None:
    assert read(b"") == {}


def test_only_the_top_level() -> None:
    body = {"x": {"model": "inner"}, "y": [{"model": "inner"}], "model": "outer"}
    assert read(json.dumps(body).encode())["model"] == "outer"
    assert "model" not in read(b'{"x":{"model":"inner"},"text":"\\"model\\": 1"}')


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b"{",
        b"{}x",
        b"{} {}",
        b"[]",
        b'"model"',
        b"null",
        b'[{"model":"m"}]',
        b"{'model':'m'}",
        b'{model:"m"}',
        b'{"model":"m",}',
        b'{"model":"m"}//',
        b'/**/{"model":"m"}',
        b'{"model":"m"}\0',
        b'{"model":NaN}',
        b'{"n":Infinity}',
        b'{"n":01}',
        b'{"n":1e999}',
        b'{"model":"a\tb"}',
        b'{"model":"\\x6d"}',
        b'{"model":"\\ud800"}',
        b'{"model":"\xff"}',
        b'{"model":"\xc0\xad"}',
        b'\xef\xbb\xbf{"model":"m"}',
        '{"model":"m"}'.encode("utf-16"),
        '{"model":"m"}'.encode("utf-16-le"),
        '{"model":"m"}'.encode("utf-16-be"),
        '{"model":"m"}'.encode("utf-32"),
        '{"model":"m"}'.encode("utf-7").replace(b"{", b"+AHs-"),
        b"\x1f\x8b" + zlib.compress(b'{"model":"m"}'),
        b'{"x":' + b"[" * 5000 + b"]" * 5000 + b',"model":"m"}',
    ],
)
def test_what_is_no_plain_json_object(body: bytes) -> None:
    refused(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"n":1,"x":{"n":2},"n":3}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"\\u006dodel":"a","m\\u006fdel":"b"}',
        b'{"mod\\u0065l":"b" , "model" : "a"}',
    ],
)
def test_a_name_twice(body: bytes) -> None:
    assert refused(body).param in WANTED


def test_a_name_with_escapes_is_that_name() -> None:
    assert read(b'{"mod\\u0065l":"m"}') == {"model": "m"}
    assert read(b'{"x":"\\u0065","model":"m"}')["model"] == "m"


def test_other_names_may_repeat() -> None:
    assert read(b'{"x":1,"x":2,"model":"m"}')["model"] == "m"


@pytest.mark.parametrize("name", ["Model", "MODEL", "modeL", "N", "mode\u013a"])
def test_a_name_in_another_case(name: str) -> None:
    body = json.dumps({name: "b", "model": "a"}, ensure_ascii=False).encode()
    if name == "mode\u013a":
        assert read(body)["model"] == "a"  # another letter, not another case
    else:
        assert refused(body).param == name


@pytest.mark.parametrize(
    "name",
    [
        *("model\0", "model\0x", "\0model", "model ", " model", "mo del", "model\n", "\tmodel"),
        *("model.", "mo.del", "mo-del", "model[]", "_model", "\u200bmodel", "model\xa0", "n\r"),
        *("max.tokens", "max tokens", "max-tokens", "maxTokens", "MaxTokens", "max__tokens"),
        *("\uff4dodel", "max_tokens\0", "other name", "x\0", ""),
    ],
)
def test_a_name_that_some_reader_takes_for_another(name: str) -> None:
    inbound = ClientRequest(environ("POST"), 0)
    body = json.dumps({"model": "a", name: "b"}).encode()
    wanted = WANTED | {"max_tokens"}
    if not name:
        assert parameters_of(inbound, body, wanted)[""] == "b"
        return
    with pytest.raises(ClientError) as caught:
        parameters_of(inbound, body, wanted)
    assert (caught.value.code, caught.value.param) == ("invalid_request", name)


def test_a_long_name() -> None:
    assert read(json.dumps({"x" * 256: 1}).encode())
    error = refused(json.dumps({"model" + "." * 10_000: 1}).encode())
    assert len(error.param or "") == 100
    assert len(str(error)) < 300


@pytest.mark.parametrize("name", ["models", "x.y", "x-model", "model2", "$schema", "a:b", "ü"])
def test_other_names_are_free(name: str) -> None:
    assert read(json.dumps({"model": "a", name: 1}).encode())["model"] == "a"


def test_a_form_with_a_name_that_php_reads_as_another() -> None:
    body = b'--B\r\nContent-Disposition: form-data; name="mo.del"\r\n\r\nx\r\n--B--'
    assert refused(body, "multipart/form-data; boundary=B").param == "mo.del"


def test_the_charset_of_a_form_is_for_its_reader() -> None:
    body = b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B--'
    for content_type in ("boundary=B; charset=UTF-8", "charset=utf-8; boundary=B"):
        assert read(body, f"multipart/form-data; {content_type}")["model"] == "m"
    refused(body, "multipart/form-data; boundary=B; charset=utf-7")


def test_letters_that_fold_into_others() -> None:
    """Go compares names with these as equal."""
    wanted = frozenset({"stop", "top_k"})
    inbound = ClientRequest(environ("POST"), 0)
    for name in ("\u017ftop", "top_\u212a"):
        body = json.dumps({name: 1}, ensure_ascii=False).encode()
        with pytest.raises(ClientError):
            parameters_of(inbound, body, wanted)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-7",
        "application/json; charset=utf-16",
        "application/json; charset=shift_jis",
        "application/json; charset=utf-8; charset=utf-7",
        "application/json; charset=utf-8, application/json; charset=utf-7",
        "application/json; x=y; charset=utf-7",
        "application/json; charset*=utf-7",
        "application/json; CHARSET = utf-7",
        'application/json; charset="utf-8',
        "text/plain; charset=cp037",
    ],
)
def test_another_charset(content_type: str) -> None:
    refused(b'{"model":"m"}', content_type)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "identity, gzip", "x"])
def test_an_encoded_body(encoding: str) -> None:
    refused(b'{"model":"m"}', Content_Encoding=encoding)


def test_identity_is_no_encoding() -> None:
    assert read(b'{"model":"m"}', Content_Encoding="Identity") == {"model": "m"}


def test_bodies_that_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_parameters, "MAX_PARTS", 100)
    assert read(b'{"x":[' + b"1," * 90 + b'1],"model":"m"}')["model"] == "m"
    refused(b'{"x":[' + b"1," * 100 + b'1],"model":"m"}')
    assert read(b'{"x":"' + b"a" * 1000 + b'","model":"m"}')["model"] == "m"


def test_too_many_parameters() -> None:
    refused(json.dumps({f"p{number}": 1 for number in range(1001)}).encode())


BIG = b'"x":[%b{"model":"inner"}],"y":"%b"' % (b"[]," * 60_000, b"long " * 20_000)


def test_a_large_body_is_read_by_slices() -> None:
    found = read(b'{%b,"model":"m","n":2}' % BIG)
    assert (found["model"], found["n"]) == ("m", 2)
    assert list(found) == ["x", "y", "model", "n"]
    assert isinstance(found["x"], LargeValue)
    assert read(b'{"model":"m","n":2,%b}' % BIG)["model"] == "m"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m",%b,"model":"n"}' % BIG,
        b'{"model":"m",%b,"mod\\u0065l":"n"}' % BIG,
        b'{"Model":"m",%b}' % BIG,
        b'{"model":"m",%b,}' % BIG,
        b'{"model":"m",%b' % BIG,
        b'[{"model":"m",%b}]' % BIG,
        b'{"model":"m",%b}'
        % b",".join(b'"p%d":"%b"' % (number, b"x" * 300) for number in range(1000)),
    ],
)
def test_a_large_body_is_read_as_strictly(body: bytes) -> None:
    refused(body)


@pytest.mark.parametrize("large", [b'["%b"]' % (b"m" * 300_000), b'"%b"' % (b"m" * 300_000)])
def test_a_large_value_is_none_that_a_rule_allows(large: bytes) -> None:
    policy = Policy.compile({"allowed_models": ["*m"], "allowed_params": {"n": ["m*"]}})
    for body in (b'{"model":%b}' % large, b'{"model":"m","n":%b}' % large):
        with pytest.raises(ClientError) as caught:
            policy.check_values(read(body))
        assert caught.value.code in ("model_not_allowed", "param_not_allowed")


def test_reading_a_large_body_leaves_others_their_turn() -> None:
    body = b'{%b,"model":"m"}' % BIG
    assert served_while(lambda: read(body)) >= 3


def test_text_of_large_values_is_measured_where_it_counts() -> None:
    inbound = ClientRequest(environ("POST", headers=[("Content-Type", JSON)]), 0)
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (
        b'Hi"},' + b'{"role":"user","content":"word"},' * 10_000 + b'{"role":"'
    )
    assert parameters_of(inbound, body, WANTED)["messages"].text == 0
    found = parameters_of(inbound, body, WANTED, measured=True)
    assert 40_000 < found["messages"].text < 50_000
    assert prompt_bytes(found, len(body)) == found["messages"].text


NAMES = st.sampled_from(["model", "n", "x", "mod\\u0065l", "\\u006e", "\\u006dodel", "y"])
VALUES = st.sampled_from(['"a"', "1", "null", '{"model":1}', '["model"]', '"\\"model\\":2,"'])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_as_a_reader_that_keeps_every_member(members: list[tuple[str, str]]) -> None:
    body = "{" + ", ".join(f'"{name}" : {value}' for name, value in members) + "}"
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=lambda found: found)
    names = [name for name, _ in pairs]
    if any(names.count(name) > 1 for name in WANTED):
        refused(body.encode())
    else:
        expected = {name for name in names if name in WANTED}
        found = read(body.encode())
        assert {name for name in found if name in WANTED} == expected
        assert all(found[name] == json.loads(body)[name] for name in expected)

"""A body is edited in its text: what is not asked for keeps its bytes."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.providers import body as module
from proxy.providers.base import EditableBody
from proxy.providers.body import scan
from proxy.usage import large
from proxy.usage.json_text import LongString, encoded_in_turns
from tests.support.loop_probe import served_while

JSON = "application/json"


def scanned(body: bytes | str, content_type: str | None = JSON) -> EditableBody:
    found = scan(body.encode() if isinstance(body, str) else body, content_type)
    assert found is not None
    return found


def refused(body: bytes | str, content_type: str | None = JSON, encoding: str | None = None) -> str:
    with pytest.raises(ClientError) as caught:
        scan(body.encode() if isinstance(body, str) else body, content_type, encoding)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    return str(caught.value)


def test_values() -> None:
    body = scanned('{"model": "gpt", "n": 1, "stop": null, "x": {"model": "no"}}')
    assert body.model == "gpt"
    assert [body.value(name) for name in ("n", "stop", "x", "none")] == [
        1,
        None,
        {"model": "no"},
        None,
    ]
    assert scanned("{}").model is None


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ('{"model":"a"}', {"model": "b"}, '{"model":"b"}'),
        (' { "x" : 1 , "model" : "a" } \n', {"model": "b"}, ' { "x" : 1 , "model" : "b" } \n'),
        ('{"x": 1}', {"model": "b"}, '{"x": 1,"model":"b"}'),
        ("{ }", {"model": "b"}, '{"model":"b" }'),
        ('{"model":"a"}', {"model": 'ü"\n'}, '{"model":"ü\\"\\n"}'),
        ('{"a":1\n}', {"defaults": {"b": [1, "x"]}}, '{"a":1,"b":[1,"x"]\n}'),
        ('{"a":1, "b":2}', {"defaults": {"b": 3}}, '{"a":1, "b":2}'),
        ('{"a": null}', {"defaults": {"a": 3}}, '{"a": null}'),
        ('{"a":[1, 2] ,"b":2}', {"override": {"a": {"x": 1.5}}}, '{"a":{"x":1.5} ,"b":2}'),
        ('{"a":1, "b":2, "c":3}', {"drop": {"a"}}, '{"b":2, "c":3}'),
        ('{"a":1, "b":2, "c":3}', {"drop": {"b"}}, '{"a":1, "c":3}'),
        ('{"a":1, "b":2, "c":3 }', {"drop": {"c"}}, '{"a":1, "b":2 }'),
        ('{"a":1, "b":2, "c":3 }', {"drop": {"b", "c"}}, '{"a":1 }'),
        ('{ "a":1, "b":2 }', {"drop": {"a", "b"}}, "{  }"),
        ('{ "a":1 }', {"drop": {"a"}, "defaults": {"b": 2}}, '{ "b":2 }'),
        ('{"a":1, "b":2}', {"drop": {"b"}, "defaults": {"c": 2}}, '{"a":1,"c":2}'),
        ('{"a" : 1}', {"rename": {"a": "z"}}, '{"z" : 1}'),
        ('{"a":1,"b":2}', {"rename": {"a": "b"}}, '{"b":1}'),
        ('{"a":1}', {"rename": {"a": "b"}, "override": {"a": 2}}, '{"b":2}'),
        ('{"a":{"a":1,"a":2},"b":1.50}', {"drop": {"b"}}, '{"a":{"a":1,"a":2}}'),
        ('{"\\"\\u00e9":1,"b":1}', {"drop": {"b"}}, '{"\\"\\u00e9":1}'),
    ],
)
def test_edits(text: str, changes: dict[str, Any], expected: str) -> None:
    assert scanned(text).edited(**changes) == expected.encode()


def test_without_changes_it_is_the_same_object() -> None:
    text = b'{"model": "a", "x": 1}'
    body = scanned(text)
    assert body.edited() is text
    assert body.edited(model="a", defaults={"x": 2}, drop={"y"}, rename={"z": "y"}) is text


def test_every_attempt_starts_from_the_original() -> None:
    body = scanned('{"model":"a","x":1}')
    assert body.edited(model="b", drop={"x"}) == b'{"model":"b"}'
    assert body.edited(model="c") == b'{"model":"c","x":1}'


# Bodies that have no parameters.


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", JSON),
        (b"", None),
        (b"RIFF", "audio/wav"),
        (b'{"model":"a"}', "text/plain"),
        (b"model=a", "application/x-www-form-urlencoded"),
        (b'[{"model":"a"}]', JSON),
        (b' "x"', JSON),
        (b"-1", JSON),
        (b"null", JSON),
    ],
)
def test_what_has_no_parameters(body: bytes, content_type: str | None) -> None:
    assert scan(body, content_type) is None


@pytest.mark.parametrize(
    "content_type", [None, "", "Application/JSON", "application/json; charset=UTF-8", "text/x+json"]
)
def test_what_is_json(content_type: str | None) -> None:
    assert scanned('{"model":"a"}', content_type).model == "a"


# Bodies on which two readers could disagree.

MANY_NAMES = ",".join(f'"a{number}":1' for number in range(1001))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"model":"a","model":"b"}', "`model` is in the body twice"),
        ('{"x":1,"x":1}', "`x` is in the body twice"),
        ('{"x":1,"X":1}', "differ in case"),
        ('{"Model":"a"}', "lower case"),
        ('{"mod\\u0065l":"a"}', "without escapes"),
        ('{"model":"a","mod\\u0065l":"b"}', "without escapes"),
        ('{"stre\\u0061m":true}', "`stream` must be spelled"),
        ('{"model":1}', "`model` must be a string"),
        ('{"model":null}', "`model` must be a string"),
        ('{"model":["a"]}', "`model` must be a string"),
        ('{"model":"a\\u0000"}', "printable"),
        ('{"model":"a\\ud83d"}', "printable"),
        ('{"model":"%s"}' % ("a" * 1025), "1024"),
        ('{"model":"%s"}' % ("a" * 100_000), "1024"),
        (b'{"model":"\xff"}', "UTF-8"),
        (b'\xef\xbb\xbf{"model":"a"}', "byte order mark"),
        ('{"model":"a"}'.encode("utf-16"), "byte order mark"),
        ('{"model":"a"}'.encode("utf-16-le"), "valid JSON"),
        ('{"model":"a"}'.encode("utf-16-be"), "valid JSON"),
        ('{"model":"a"} {"model":"b"}', "valid JSON"),
        ('{"model":"a"}x', "valid JSON"),
        ('{"model":"a"}\0', "valid JSON"),
        ('{"model":"a",}', "valid JSON"),
        ("{'model':'a'}", "valid JSON"),
        ('{"model":"a"', "valid JSON"),
        ('{"model":NaN}', "valid JSON"),
        ("hello", "valid JSON"),
        (f"{{{MANY_NAMES}}}", "too many members"),
        (f"{{{MANY_NAMES}{' ' * 70_000}}}", "too many members"),
    ],
)
def test_refused(body: bytes | str, says: str) -> None:
    assert says in refused(body)


def test_the_refused_parameter_is_named() -> None:
    with pytest.raises(ClientError) as caught:
        scan(b'{"model":1}', JSON)
    assert caught.value.param == "model"


def test_another_charset_and_a_compressed_body() -> None:
    assert "charset" in refused('{"model":"a"}', "application/json; charset=utf-16")
    assert "compressed" in refused("x", JSON, "gzip")
    assert "compressed" in refused("x", "multipart/form-data; boundary=B", "gzip")
    assert scan(b"{}", JSON, "Identity") is not None
    assert scan(b"x", "application/octet-stream", "gzip") is None


# Valid bodies that the parser refuses: the upstream judges them.

ODD = [
    '{"a":"\\ud83d", "model":"x" , "n":1}',
    '{"a":1e999, "model":"x" , "n":1}',
    f'{{"a":{"[" * 2000}{"]" * 2000}, "model":"x" , "n":1}}',
]


@pytest.mark.parametrize("text", ODD)
def test_odd_values_are_relayed(text: str) -> None:
    body = scanned(text)
    assert body.model == "x"
    assert body.edited(model="y") == text.replace('"x"', '"y"').encode()
    assert body.edited(drop={"model"}) == text.replace('"model":"x" , ', "").encode()


def test_values_that_no_parser_holds() -> None:
    assert scanned(ODD[0]).value("a") == "\ud83d"
    deep = scanned(f'{{"a":{"[" * 5000}{"]" * 5000}}}')
    with pytest.raises(ClientError) as caught:
        deep.value("a")
    assert caught.value.param == "a"


# Large bodies.

TEXT = "x" * 300_000
MORE = ",".join(["[1, {}]"] * 20_000)
LARGE = f'{{ "messages": [{{"content": "{TEXT}"}}] , "model":"a","more":[{MORE}], "n": 1 }}'


def test_a_large_body() -> None:
    body = scanned(LARGE)
    assert body.model == "a"
    assert body.value("messages") == [{"content": TEXT}]
    assert body.value("n") == 1
    assert body.edited(model="b") == LARGE.replace('"a"', '"b"').encode()
    assert json.loads(body.edited(drop={"messages", "n"})) == {
        "model": "a",
        "more": [[1, {}]] * 20_000,
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [('"n": 1', '"n": 1,"model":"b"'), ('"n": 1 }', '"n": 1 }x'), ("[1, {}]", "[1 {}]")],
)
def test_a_large_body_is_read_as_strictly(old: str, new: str) -> None:
    refused(LARGE.replace(old, new, 1))


def test_too_many_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BRACKETS", 10_000)
    assert "too many" in refused(LARGE)


def test_reading_leaves_others_their_turn() -> None:
    body = b'{"model":"a","x":[%b]}' % b",".join([b"[1]"] * 200_000)
    assert served_while(lambda: scan(body, JSON)) >= 3


def test_editing_leaves_others_their_turn() -> None:
    body = scanned('{"model":"a","x":"%s"}' % ("y" * 30_000_000))
    assert served_while(lambda: body.edited(model="b")) >= 3


# Any object, in any spelling.

NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
#: A tuple is an object whose names may repeat.
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.text(max_size=3), inner), max_size=3).map(tuple)
    ),
    max_leaves=6,
)
BLANKS = st.text(" \t\r\n", max_size=2)
KNOWN = ["model", "a", "b", "c", "d", "max_tokens", "max_completion_tokens"]
NAMES = st.sampled_from(KNOWN) | st.text(max_size=4).filter(
    lambda name: name.casefold() not in KNOWN
)


@st.composite
def spelled(draw: st.DrawFn, value: Any) -> str:
    """A JSON text of `value`, with blanks within it."""
    if isinstance(value, tuple):
        comma = f"{draw(BLANKS)},{draw(BLANKS)}"
        parts = [draw(member(name, inner)) for name, inner in value]
        return f"{{{draw(BLANKS)}{comma.join(parts)}{draw(BLANKS)}}}"
    if isinstance(value, list):
        comma = f"{draw(BLANKS)},{draw(BLANKS)}"
        return f"[{draw(BLANKS)}{comma.join(draw(spelled(each)) for each in value)}{draw(BLANKS)}]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def member(draw: st.DrawFn, name: str, value: Any) -> str:
    written = json.dumps(name, ensure_ascii=draw(st.booleans()))
    return f"{written}{draw(BLANKS)}:{draw(BLANKS)}{draw(spelled(value))}"


@st.composite
def bodies(draw: st.DrawFn, *always: str) -> tuple[str, dict[str, str]]:
    """A body, and its members as they are written, without the blanks around them."""
    members = {}
    names = draw(st.lists(NAMES, max_size=6, unique_by=str.casefold))
    names += [name for name in always if name not in names]
    for name in draw(st.permutations(names)):
        value = draw(st.text("abcü/", max_size=5)) if name == "model" else draw(VALUES)
        members[name] = draw(member(name, value))
    inside = draw(BLANKS)
    for number, written in enumerate(members.values()):
        inside += f"{draw(BLANKS)},{draw(BLANKS)}" if number else ""
        inside += written
    return f"{draw(BLANKS)}{{{inside}{draw(BLANKS)}}}{draw(BLANKS)}", members


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text("xyzü", min_size=1, max_size=4),
        "defaults": st.dictionaries(st.sampled_from(["a", "c", "max_tokens"]), st.integers(0, 9)),
        "override": st.dictionaries(st.sampled_from(["b", "d", "max_tokens"]), st.integers(10, 19)),
        "drop": st.sets(st.sampled_from(["a", "b", "max_tokens"])),
        "rename": st.just({"max_completion_tokens": "max_tokens"}),
    },
)


def expected(members: dict[str, str], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What the target gets, by the rules as they are documented, one after the other."""
    rename, bounds = changes.get("rename", {}), {"max_tokens", "max_completion_tokens"}
    found: dict[str, Any] = {}
    for written in members.values():
        found.update(json.loads(f"{{{written}}}"))
    for name in changes.get("drop", ()):
        found.pop(name, None)
        for old, new in rename.items():
            if new == name:
                found.pop(old, None)
    for old, new in rename.items():
        if old in found:
            found[new] = found.pop(old)
    forced = {rename.get(name, name): value for name, value in changes.get("override", {}).items()}
    if bounds & set(forced):
        for name in bounds:
            found.pop(name, None)
    found.update(forced)
    for name, value in changes.get("defaults", {}).items():
        if name in changes.get("drop", ()) or (name in bounds and bounds & set(found)):
            continue
        found.setdefault(name, value)
    if "model" in changes:
        found["model"] = changes["model"]
    return found


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(bodies(), CHANGES)
def test_any_object(body: tuple[str, dict[str, str]], changes: dict[str, Any]) -> None:
    text, members = body
    edited = scanned(text).edited(**changes).decode()
    wanted = expected(members, changes)
    # Pairs: no name comes twice.
    pairs = json.loads(edited, object_pairs_hook=list) if wanted else []
    assert len(pairs) == len(wanted)
    assert json.loads(edited) == wanted
    # What nothing names keeps its bytes, and its place among the others.
    named = {"model", *(["max_tokens", "max_completion_tokens"] if changes else [])}
    named.update(*(changes.get(each, ()) for each in ("defaults", "override", "drop")))
    at = 0
    for name, written in members.items():
        if name not in named:
            at = edited.index(written, at) + len(written)
    if not changes:
        assert edited == text


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(bodies(), CHANGES, st.sampled_from([48, 100, 1000]))
def test_read_by_slices_it_is_the_same(
    body: tuple[str, dict[str, str]], changes: dict[str, Any], size: int
) -> None:
    text = body[0]
    at_once = scanned(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", 0)
        patch.setattr(large, "SLICE", size)
        by_slices = scanned(text)
    assert by_slices.model == at_once.model
    assert by_slices.edited(**changes) == at_once.edited(**changes)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(bodies("model"))
def test_one_value_replaced_is_all_that_differs(body: tuple[str, dict[str, str]]) -> None:
    text, members = body
    written = members["model"]
    before = text[: text.index("{") + 1]  # the members, up to that one, stand between
    start = len(before)
    for name, each in members.items():
        start = text.index(each, start)
        if name == "model":
            break
        start += len(each)
    old = written.rpartition('"')[0].rpartition('"')[2]
    value = start + len(written) - len(old) - 2
    edited = scanned(text).edited(model="gpt-x").decode()
    assert edited == text[:value] + '"gpt-x"' + text[value + len(old) + 2 :]


@pytest.mark.parametrize("value", ["null", "false", "0", '""', "[]", "{}", '"null"'])
def test_what_is_set(value: str) -> None:
    body = scanned(f'{{"a": {value}}}')
    assert body.is_set("a") == (value != "null")
    assert not body.is_set("b")


def test_short_values_alone_are_read() -> None:
    body = scanned(f'{{"a": "{"x" * 1000}", "b": "{"x" * 20_000}", "c": null}}')
    assert body.short("a") == "x" * 1000
    assert [body.short(name) for name in "bcd"] == [None] * 3
    assert body.is_set("b")


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_document_is_decoded_once(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.usage.json_slices.AT_ONCE", size)
    text = b'{"model":"m", "messages":[{"role":"user","content":"\\u00e9"},{}],"n":1,"x":[1]}'
    body = scan(text, "application/json")
    assert body is not None
    document = body.document()
    assert json.loads(b"".join(encoded_in_turns(document))) == json.loads(text)
    assert body.document() is document


def test_long_strings_in_a_document_stay_text() -> None:
    word = "x" * 100_000
    body = scanned(json.dumps({"model": "m", "a": word, "b": [word, "y"]}))
    document = body.document()
    assert body.document() is document
    assert (type(document["a"]), type(document["b"][0])) == (LongString, LongString)
    assert document["b"][1] == "y"


@pytest.mark.parametrize("size", [9, 1_000_000])  # with 9, the lists are cut
@pytest.mark.parametrize("value", ["1e999", r'"\ud800"', r'["\udc00"]', "[-1e999,0]"])
def test_what_cannot_be_written_again_has_no_document(
    value: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.usage.json_slices.AT_ONCE", size)
    body = scanned(f'{{"model":"m","x":{value}}}')
    with pytest.raises(ClientError, match="`x` cannot be read") as caught:
        body.document()
    assert caught.value.param == "x"


def test_a_form_has_no_document() -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
    body = scan(form, "multipart/form-data; boundary=x")
    assert body is not None
    with pytest.raises(ClientError):
        body.document()

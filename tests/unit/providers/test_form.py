"""A form is edited in its text: the model is replaced, and a file keeps its bytes."""

from typing import Any

import pytest
import requests

from proxy.core.errors import ClientError
from proxy.providers.base import EditableBody
from proxy.providers.body import scan
from tests.support.loop_probe import served_while

TYPE = "multipart/form-data; boundary=BB"


def part(name: str, value: str, *more: str) -> str:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    return "--BB\r\n" + "\r\n".join([disposition, *more]) + f"\r\n\r\n{value}\r\n"


FILE = part("file", "RIFF\0\r\n\r\nx", "Content-Type: audio/wav").replace(
    '"file"', '"file"; filename="a.wav"'
)
MODEL = part("model", "whisper-1")
END = "--BB--\r\n"


def scanned(text: str) -> EditableBody:
    found = scan(text.encode(), TYPE)
    assert found is not None
    return found


def test_values() -> None:
    form = scanned(FILE + MODEL + part("x", "ü") + part("y[]", "1") + part("y[]", "2") + END)
    assert form.model == "whisper-1"
    assert form.value("x") == "ü"
    assert [form.value(name) for name in ("file", "y", "y[]", "none")] == [None] * 4
    assert scanned(FILE + END).model is None


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        (FILE + MODEL, {"model": "b"}, FILE + part("model", "b")),
        (MODEL + FILE, {"model": "ü"}, part("model", "ü") + FILE),
        (FILE, {"model": "b"}, FILE + part("model", "b")),
        (MODEL, {"defaults": {"language": "en", "model": "x"}}, MODEL + part("language", "en")),
        (MODEL, {"defaults": {"n": 1, "t": 0.5, "s": True}},
         MODEL + part("n", "1") + part("t", "0.5") + part("s", "true")),
        (MODEL, {"defaults": {"list": ["a"], "object": {}}}, MODEL),
        (part("n", "1") + MODEL, {"override": {"n": 2}}, part("n", "2") + MODEL),
        (part("n[]", "1") + MODEL + part("n[]", "2"), {"override": {"n": "3"}},
         part("n", "3") + MODEL),
        (part("n", "\xe9", "Content-Type: text/plain; charset=ISO-8859-1"),
         {"override": {"n": "é"}}, part("n", "é")),
        (part("n", "1") + MODEL + part("n", "2"), {"drop": {"n"}}, MODEL),
        (MODEL + FILE, {"drop": {"file"}, "defaults": {"x": ""}}, MODEL + part("x", "")),
        (MODEL, {"rename": {"model": "x"}}, MODEL),
    ],
)  # fmt: skip
def test_edits(text: str, changes: dict[str, Any], expected: str) -> None:
    for end in (END, END[:-2]):
        assert scanned(text + end).edited(**changes) == (expected + end).encode()


def test_without_changes_it_is_the_same_object() -> None:
    text = (FILE + MODEL + END).encode()
    form = scan(text, TYPE)
    assert form is not None
    assert form.edited() is text
    assert form.edited(model="whisper-1", defaults={"file": "x"}, drop={"none"}) is text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MODEL + MODEL + END, "`model` is in the form twice"),
        (part("model[]", "a") + END, "`model` is in the form twice"),
        (part("Model", "a") + END, "lower case"),
        (part("x", "a") + part("X", "a") + END, "differ in case"),
        (part("model", "a\0") + END, "printable"),
        (part("model", "a", "Content-Type: text/html") + END, "its field `model`"),
        (MODEL.replace('"model"', '"model"; filename="x"') + END, "its field `model`"),
        (MODEL, "its delimiters"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(ClientError, match=says) as caught:
        scanned(text)
    assert caught.value.code == "invalid_request"


def test_a_value_with_the_boundary() -> None:
    form = scanned(FILE + MODEL + END)
    for changes in ({"model": "--BB"}, {"defaults": {"x": "a\r\n--BB"}}):
        with pytest.raises(ClientError, match="boundary"):
            form.edited(**changes)


def test_a_name_that_no_field_has() -> None:
    with pytest.raises(ClientError) as caught:
        scanned(MODEL + END).edited(defaults={'x"; name="model': "a"})
    assert caught.value.param == 'x"; name="model'


def test_as_requests_writes_it() -> None:
    files = {"file": ("ü.wav", b"\0" * 100, "audio/wav"), "model": (None, "whisper-1")}
    sent = requests.Request("POST", "http://x", files=files, data={"a": "b"}).prepare()
    assert isinstance(sent.body, bytes)
    form = scan(sent.body, sent.headers["Content-Type"])
    assert form is not None
    assert form.edited(model="large") == sent.body.replace(b"whisper-1", b"large")


def test_editing_leaves_others_their_turn() -> None:
    form = scanned(FILE.replace("RIFF", "x" * 30_000_000) + MODEL + END)
    assert served_while(lambda: form.edited(model="b")) >= 3

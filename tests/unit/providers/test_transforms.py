"""Bodies that are held, and events that are changed."""

import pytest

from proxy.providers import transforms
from proxy.providers.transforms import WholeBody, chunks_changed


def test_a_whole_body_is_changed_at_its_end() -> None:
    body = WholeBody(bytes.upper)
    assert body.feed(b"ab") == body.feed(b"c") == b""
    assert body.end() == b"ABC"
    assert body.end() == b""


def test_a_large_body_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "MAX_WHOLE_BYTES", 3)
    body = WholeBody(bytes.upper)
    assert [body.feed(b"ab"), body.feed(b"cd"), body.feed(b"e"), body.end()] == [
        b"",
        b"abcd",
        b"e",
        b"",
    ]


def test_only_the_data_of_an_event_is_changed() -> None:
    stream = chunks_changed(lambda data: b"new" if data == {"a": 1} else None)
    text = b': x\n\nevent: e\nid: 1\ndata:{"a":1}\r\n\r\ndata: {"a":2}\n\n{"a":1}\n\nid: 2\n\n'
    assert stream.feed(text) + stream.end() == (
        b': x\n\nevent: e\nid: 1\ndata: new\r\n\r\ndata: {"a":2}\n\ndata: new\n\nid: 2\n\n'
    )


def test_data_in_several_lines_becomes_one() -> None:
    stream = chunks_changed(lambda data: b"new" if data == {"a": 1} else None)
    assert stream.feed(b'id: 1\ndata: {"a":\ndata: 1}\nretry: 1\n\n') == (
        b"id: 1\ndata: new\nretry: 1\n\n"
    )

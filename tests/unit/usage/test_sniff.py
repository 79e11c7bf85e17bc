from __future__ import annotations

import pytest

from proxy.usage.sniff import kind_of, without_space


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"", None),
        (b"\xef\xbb", None),
        (b" \r\n\t", None),
        (b"{", "json"),
        (b"\xef\xbb\xbf \n[1]", "json"),
        (b"data", None),
        (b"data:", "events"),
        (b"\n\nevent: x", "events"),
        (b"i", None),
        (b"id: 5", "events"),
        (b"retry:1", "events"),
        (b": ping", "events"),
        (b"date: x", "other"),
        (b"<html>", "other"),
        (b'"text"', "other"),
        (b"\x1f\x8b", "other"),
    ],
)
def test_kind_of(beginning: bytes, kind: str | None) -> None:
    assert kind_of(beginning) == kind


def test_without_space() -> None:
    assert without_space(b"\xef\xbb\xbf\r\n {} ") == b"{} "

"""Data URLs: long ones say the same as short ones, however they are cut."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.providers.anthropic import data_url
from proxy.usage import json_text
from proxy.usage.json_text import LongString

URLS = [
    ("data:image/png;base64,iVBORw0K", ("image/png", "iVBORw0K")),
    ("data:image/png;name=a.png;base64,AA==", ("image/png", "AA==")),
    ("data:;base64,AA==", ("text/plain", "AA==")),
    ("DATA:Image/PNG ; BASE64,AA==", ("image/png", "AA==")),
    ("data:image/png;base64,iVBO\nRw0K iVBO\tRw0K", ("image/png", "iVBORw0KiVBORw0K")),
    ("data:image/png;base64,iV%42O%2b%2FK", ("image/png", "iVBO+/K")),
    ("data:image/png;base64,", ("image/png", "")),
    ("data:,Hi%20you", ("text/plain", "SGkgeW91")),
    ("data:text/plain;charset=utf-8,é%c3%A9%", ("text/plain", "w6nDqSU=")),
]


def long_string(text: str) -> LongString:
    return LongString(json.dumps(text).replace("/", "\\/").encode()[1:-1])


def whole(text: str | LongString) -> str:
    return "".join(text.decoded()) if isinstance(text, LongString) else text


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_a_url(url: str, expected: tuple[str, str]) -> None:
    assert data_url.read(url) == expected


@pytest.mark.parametrize("piece", range(36, 50))
@pytest.mark.parametrize(("url", "expected"), URLS)
def test_a_long_url(
    url: str, expected: tuple[str, str], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "SLICE", piece)
    media_type, data = data_url.read(long_string(url))
    assert isinstance(data, LongString)
    assert (media_type, whole(data)) == expected


@given(st.text("aA%2f \n", max_size=60), st.booleans(), st.integers(30, 50))
def test_any_data(data: str, coded: bool, piece: int) -> None:
    url = f"data:text/x{';base64' if coded else ''},{data}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "SLICE", piece)
        assert whole(data_url.read(long_string(url))[1]) == whole(data_url.read(url)[1])


def test_plain_base64_stays_as_it_is() -> None:
    text = b"data:image/png;base64," + b"iVBORw0K" * 4
    data = data_url.read(LongString(text))[1]
    assert isinstance(data, LongString)
    assert data._text is text


@pytest.mark.parametrize("url", ["data:image/png", "data:"])
def test_a_url_that_is_not_complete(url: str) -> None:
    for given_as in (url, LongString(url.encode())):
        with pytest.raises(ValueError, match="complete"):
            data_url.read(given_as)


@pytest.mark.parametrize("piece", [12, 13, 14, 15, 1000])
@pytest.mark.parametrize("text", ["", "Hi", "é😀" * 9, "abc" * 20])
def test_the_text_of_base64(text: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "SLICE", piece)
    coded = base64.b64encode(text.encode()).decode()
    assert data_url.text_of(coded) == text
    assert whole(data_url.text_of(LongString(coded.encode()))) == text


@pytest.mark.parametrize("coded", ["AA==AAAA", "A", "AAAA-", "_w==", "/w==", "w6k=w6k=", "4oI="])
@pytest.mark.parametrize("piece", [4, 5, 1000])
def test_base64_of_no_text(coded: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "SLICE", piece)
    for given_as in (coded, LongString(coded.encode())):
        with pytest.raises(ValueError):  # noqa: PT011  (of two kinds)
            data_url.text_of(given_as)

"""Pieces of a text replaced, at once or in turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage import splice
from proxy.usage.splice import Splice, spliced


def test_nothing_to_replace() -> None:
    text = b"abc"
    assert spliced(text, []) is text


@given(
    st.binary(max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
    st.binary(min_size=1, max_size=3),
    st.sampled_from([0, 1, 7, 1000]),
)
def test_any_text(text: bytes, places: list[int], put: bytes, at_once: int) -> None:
    places = sorted(min(place, len(text)) for place in places)
    pairs = list(zip(places[::2], places[1::2], strict=False))
    expected, at = b"", 0
    for start, end in pairs:
        expected += text[at:start] + put
        at = end
    expected += text[at:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice, "_COPIED_AT_ONCE", max(at_once, 1))
        assert spliced(text, [Splice(start, end, put) for start, end in pairs]) == expected

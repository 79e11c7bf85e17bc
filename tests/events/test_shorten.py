"""Cutting events (``proxy/events/shorten.py``)."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.events.shorten import shorten
from tests.events.samples import event


def test_what_fits_is_left_alone() -> None:
    line = event().line()
    assert shorten(line, len(line)) is line


def test_the_longest_value_is_cut_and_the_rest_is_whole() -> None:
    line = event(endpoint="/v1/" + "x" * 5000, metadata={"model": "m", "total_tokens": 7}).line()
    cut = orjson.loads(shorten(line, 1000))
    whole = orjson.loads(line)
    assert cut.pop("truncated") is True
    assert whole["endpoint"].startswith(cut["endpoint"])
    assert len(cut["endpoint"]) > 300
    assert cut | {"endpoint": whole["endpoint"]} == whole


def test_inside_of_a_nested_object() -> None:
    line = event(metadata={"model": "m" * 5000, "total_tokens": 7}).line()
    cut = orjson.loads(shorten(line, 1000))
    assert cut["metadata"]["total_tokens"] == 7
    assert set(cut["metadata"]["model"]) == {"m"}


@pytest.mark.parametrize(
    "line", [b"x" * 500, b"\xff" * 500, b"[" + b"1," * 300 + b"1]", b'"' * 300]
)
def test_what_is_no_object_becomes_one(line: bytes) -> None:
    cut = shorten(line, 200)
    assert len(cut) <= 200
    assert orjson.loads(cut)["truncated"] is True


# Long texts are short ones repeated: drawn character by character they are what takes the time.
texts = st.builds(lambda text, times: text * times, st.text(max_size=20), st.integers(1, 30))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5)
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=20), values, max_size=8), st.integers(100, 1000))
def test_always_short_enough_and_always_json(value: dict[str, object], most: int) -> None:
    try:
        line = orjson.dumps(value)
    except orjson.JSONEncodeError:  # half a surrogate pair
        return
    cut = shorten(line, most)
    assert len(cut) <= most
    assert isinstance(orjson.loads(cut), dict)

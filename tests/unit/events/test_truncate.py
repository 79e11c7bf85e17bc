"""Truncating events (``proxy/events/truncate.py``)."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.events.truncate import fit, truncate
from tests.support.event_samples import event


def test_a_short_line_is_unchanged() -> None:
    line = event().line()
    assert truncate(line, len(line)) is line


def test_only_the_longest_value_is_truncated() -> None:
    line = event(endpoint="/v1/" + "x" * 5000, metadata={"model": "m", "total_tokens": 7}).line()
    cut = orjson.loads(truncate(line, 1000))
    whole = orjson.loads(line)
    assert cut.pop("truncated") is True
    assert whole["endpoint"].startswith(cut["endpoint"])
    assert len(cut["endpoint"]) > 300
    assert cut | {"endpoint": whole["endpoint"]} == whole


def test_values_in_nested_objects_are_truncated() -> None:
    line = event(metadata={"model": "m" * 5000, "total_tokens": 7}).line()
    cut = orjson.loads(truncate(line, 1000))
    assert cut["metadata"]["total_tokens"] == 7
    assert set(cut["metadata"]["model"]) == {"m"}


@pytest.mark.parametrize(
    "line", [b"x" * 500, b"\xff" * 500, b"[" + b"1," * 300 + b"1]", b'"' * 300]
)
def test_a_line_that_is_no_object_becomes_one(line: bytes) -> None:
    cut = truncate(line, 200)
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


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=20), values, max_size=8), st.integers(100, 1000))
def test_the_result_is_always_short_enough_and_json(value: dict[str, object], most: int) -> None:
    try:
        line = orjson.dumps(value)
    except orjson.JSONEncodeError:  # half a surrogate pair
        return
    cut = truncate(line, most)
    assert len(cut) <= most
    assert isinstance(orjson.loads(cut), dict)


LONGEST = {
    "endpoint": "/v1/" + "e" * 1020,
    "request_id": "r" * 128,
    "metadata": {"model": "m" * 512, "response_id": "i" * 512, "total_tokens": 7},
}


def fitted(most: int, **fields: Any) -> dict[str, Any]:
    line = fit(orjson.dumps(fields) + b"\n", most)
    assert len(line) <= most
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    found: dict[str, Any] = orjson.loads(line)
    assert found.pop("truncated")
    return found


def test_a_line_that_fits_is_the_same_line() -> None:
    line = event().line()
    assert fit(line, len(line)) is line


def test_fields_are_cut_in_the_documented_order() -> None:
    whole = len(orjson.dumps(LONGEST)) + 1
    known = {"kept": "k" * 600}
    room = len(',"truncated":true,"kept":""') + 600
    one = fitted(whole + room - 500, **LONGEST, **known)
    assert 500 < len(one["endpoint"]) < 600
    assert one | {"endpoint": LONGEST["endpoint"]} == LONGEST | known
    two = fitted(whole + room - 920, **LONGEST, **known)
    assert len(two["endpoint"]) == 128
    assert 64 < len(two["request_id"]) < 128
    assert two["metadata"] == LONGEST["metadata"]
    three = fitted(whole + room - 1300, **LONGEST, **known)
    assert (len(three["endpoint"]), len(three["request_id"])) == (128, 64)
    assert 64 < len(three["metadata"]["response_id"]) < 512
    assert len(three["metadata"]["model"]) == 512
    four = fitted(whole + room - 1800, **LONGEST, **known)
    assert len(four["metadata"]["response_id"]) == 64
    assert 64 < len(four["metadata"]["model"]) < 512
    assert four["kept"] == known["kept"]
    assert four["metadata"]["total_tokens"] == 7


def test_attempts_are_cut_before_all_else() -> None:
    attempts = [{"provider": "p" * 50, "model": "m" * 50, "n": n} for n in range(30)]
    cut = fitted(3000, attempts=attempts, **LONGEST)
    assert [attempt["n"] for attempt in cut["attempts"]] == [0, 1, 28, 29]
    assert cut["attempts_omitted"] == 26
    assert cut["endpoint"] == LONGEST["endpoint"]


def test_other_fields_are_cut_last() -> None:
    assert len(fitted(500, method="A" * 7900, endpoint="/v1/x")["method"]) < 500
    assert fitted(500, method=["A" * 7900], endpoint="/v1/x") == {"endpoint": "/v1/x"}
    assert fitted(500, endpoint=["x"] * 900, metadata="x", attempts=7)["attempts"] == 7
    assert orjson.loads(fit(b"no JSON" * 100 + b"\n", 200))["line"].startswith("no JSON")


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from([*LONGEST, "x"]), st.text(min_size=300), min_size=1))
def test_a_line_with_any_text_fits(fields: dict[str, str]) -> None:
    line = fit(orjson.dumps(fields) + b"\n", 200)
    assert len(line) <= 200
    assert orjson.loads(line)

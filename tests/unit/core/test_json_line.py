"""Cutting JSON lines of any kind; those of events: tests/unit/events/test_truncate.py."""

import orjson

from proxy.core.json_line import MARK, truncate


def test_what_fits_is_left_alone() -> None:
    line = b'{"a":1}'
    assert truncate(line, len(line)) is line


def test_the_longest_value_goes_first_and_it_says_so() -> None:
    line = orjson.dumps({"short": "s" * 50, "long": "l" * 500, "count": 7})
    cut = orjson.loads(truncate(line, 200))
    assert (cut["short"], cut["count"], cut[MARK]) == ("s" * 50, 7, True)
    assert 0 < len(cut["long"]) < 500


def test_what_is_no_object_becomes_one() -> None:
    assert orjson.loads(truncate(b"x" * 500, 200))["line"].startswith("xxx")

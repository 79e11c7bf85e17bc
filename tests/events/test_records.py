"""The framing of a line: what was written comes back, and nothing else does."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.events.records import PREFIX, capped, framed, line_of
from tests.events.samples import record

LINE = b'{"event_id":"1"}\n'


def test_a_record_is_readable_by_people() -> None:
    assert framed(LINE) == b"d4b856f5 " + LINE
    assert framed(LINE)[PREFIX:] == LINE


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\n", b"") + b"\n"))
def test_there_and_back(line: bytes) -> None:
    assert line_of(framed(line)) == line


def test_no_part_of_a_record_is_one() -> None:
    record = framed(LINE)
    assert all(line_of(record[:end]) is None for end in range(len(record)))
    assert all(line_of(record[start:]) is None for start in range(1, len(record) + 1))


@given(st.integers(0, len(framed(LINE)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(at: int, change: int) -> None:
    record = bytearray(framed(LINE))
    record[at] ^= change
    assert line_of(bytes(record)) is None


def test_other_spellings_of_the_checksum_are_damage() -> None:
    record = framed(LINE)
    assert line_of(b"0x" + record[2:]) is None
    assert line_of(record[:PREFIX].upper() + LINE) is None
    assert line_of(b"\n") is None
    assert line_of(b"") is None


def test_a_record_that_no_sink_takes_is_cut() -> None:
    small = record("r")
    assert capped(small) is small
    large = framed(b'{"event":"audit","details":"%b"}\n' % (b"x" * 100_000))
    cut = capped(large)
    assert len(cut) <= 64 * 1024
    assert b'"truncated":true' in (line_of(cut) or b"")

"""Records: a line is read back as it was written, and damage is found."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.events.spool.segment import PREFIX, capped, decode_record, encode_record
from tests.support.event_samples import record

LINE = b'{"event_id":"1"}\n'


def test_a_record_is_readable_by_people() -> None:
    assert encode_record(LINE) == b"d4b856f5 " + LINE
    assert encode_record(LINE)[PREFIX:] == LINE


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\n", b"") + b"\n"))
def test_a_line_survives_encoding_and_decoding(line: bytes) -> None:
    assert decode_record(encode_record(line)) == line


def test_no_part_of_a_record_is_a_record() -> None:
    record = encode_record(LINE)
    assert all(decode_record(record[:end]) is None for end in range(len(record)))
    assert all(decode_record(record[start:]) is None for start in range(1, len(record) + 1))


@given(st.integers(0, len(encode_record(LINE)) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(at: int, change: int) -> None:
    record = bytearray(encode_record(LINE))
    record[at] ^= change
    assert decode_record(bytes(record)) is None


def test_other_spellings_of_the_checksum_are_damaged() -> None:
    record = encode_record(LINE)
    assert decode_record(b"0x" + record[2:]) is None
    assert decode_record(record[:PREFIX].upper() + LINE) is None
    assert decode_record(b"\n") is None
    assert decode_record(b"") is None


def test_a_record_that_no_sink_accepts_is_truncated() -> None:
    small = record("r")
    assert capped(small) is small
    large = encode_record(b'{"event":"audit","details":"%b"}\n' % (b"x" * 100_000))
    cut = capped(large)
    assert len(cut) <= 64 * 1024
    assert b'"truncated":true' in (decode_record(cut) or b"")

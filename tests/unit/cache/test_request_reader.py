"""What a request means to the cache, remembered for requests that repeat."""

from dataclasses import replace

from proxy.cache.access import CacheAccess
from proxy.cache.key import KeyMaker
from proxy.cache.request_reader import RequestReader
from proxy.providers.base import OutboundRequest

ACCESS = CacheAccess(mode="on", scope="p", project_id="p")
BODY = b'{"model":"m","messages":[]}'
REQUEST = OutboundRequest(
    "POST",
    b"/v1/chat/completions",
    [("Accept", "a"), ("Content-Length", str(len(BODY)))],
    BODY,
)


class CountingKeys(KeyMaker):
    made = 0

    def key(self, access, request, upstream):  # type: ignore[no-untyped-def]
        self.made += 1
        return super().key(access, request, upstream)


def reader() -> RequestReader:
    return RequestReader(CountingKeys(b"s" * 32), ttl=60.0, stale_if_error=0.0)


def made(reader: RequestReader) -> int:
    assert isinstance(reader.keys, CountingKeys)
    return reader.keys.made


def test_a_request_that_repeats_is_read_once() -> None:
    ours = reader()
    first = ours.read(ACCESS, REQUEST, "up")
    again = ours.read(ACCESS, replace(REQUEST, headers=list(REQUEST.headers)), "up")
    assert again is first
    assert first.key is not None
    assert (first.verdict.lookup, made(ours)) == (True, 1)


def test_whatever_differs_is_read_anew() -> None:
    ours = reader()
    keys = {ours.read(ACCESS, REQUEST, "up").key}
    for other in (
        replace(REQUEST, body=BODY + b" "),
        replace(REQUEST, target=b"/v1/chat/completions?a=1"),
        replace(REQUEST, headers=[("Accept", "b")]),
    ):
        keys.add(ours.read(ACCESS, other, "up").key)
    keys.add(ours.read(ACCESS, REQUEST, "other").key)
    keys.add(ours.read(replace(ACCESS, epoch=1), REQUEST, "up").key)
    keys.add(ours.read(replace(ACCESS, scope="q"), REQUEST, "up").key)
    assert (len(keys), made(ours)) == (7, 7)


def test_an_access_that_was_changed_is_not_taken_for_the_one_before() -> None:
    ours = reader()
    assert ours.read(ACCESS, REQUEST, "up").verdict.lookup
    # The same object identity is never taken for another access: it is kept, and compared.
    off = replace(ACCESS, mode="off", hold=True)
    asked = ours.read(off, REQUEST, "up")
    assert (asked.verdict.lookup, asked.is_held, asked.key is None) == (False, True, False)


def test_large_requests_are_not_remembered() -> None:
    ours = reader()
    large = replace(REQUEST, body=b'{"model":"%b","messages":[]}' % (b"m" * 5000))
    long = replace(REQUEST, headers=[("Accept", "a" * 5000)])
    for _ in range(2):
        ours.read(ACCESS, large, "up")
        ours.read(ACCESS, long, "up")
    assert made(ours) == 4


def test_the_number_of_requests_that_are_remembered_is_bounded() -> None:
    ours = reader()
    for number in range(1000):
        ours.read(ACCESS, replace(REQUEST, target=b"/v1/chat/completions?%d" % number), "up")
    ours.read(ACCESS, replace(REQUEST, target=b"/v1/chat/completions?999"), "up")
    assert made(ours) == 1000
    ours.read(ACCESS, replace(REQUEST, target=b"/v1/chat/completions?0"), "up")
    assert made(ours) == 1001


def test_a_request_that_is_neither_kept_nor_held_has_no_key() -> None:
    ours = reader()
    upload = replace(REQUEST, target=b"/v1/files", body=iter([b"x"]))
    assert ours.read(ACCESS, upload, "up").key is None

"""More ways for the stand-in upstream to behave: everything that a relay might wrongly mend.

Importing this module adds them to ``BEHAVIOURS``. Three tables: answers that pass as they are,
answers that break off in their body, and bytes that are no valid answer at all.
"""

import gzip
import json
import zlib
from collections.abc import Callable

from tests.support.fake_upstream import (
    BEHAVIOURS,
    CHAT,
    EARLY,
    Conversation,
    Headers,
    chat_events,
    sse,
)

Behaviour = Callable[[Conversation], None]

JSON_TYPE = ("Content-Type", "application/json")
SSE_TYPE = ("Content-Type", "text/event-stream; charset=utf-8")
PLAIN = ("Content-Type", "text/plain")
CHUNKED = ("Transfer-Encoding", "chunked")
CHAT_BYTES = json.dumps(CHAT).encode()
EVERY_BYTE = bytes(range(256))


def _whole(status: str, headers: Headers, body: bytes) -> Behaviour:
    return lambda talk: talk.answer(status, headers, body)


def _in_chunks(headers: Headers, chunks: list[bytes], status: str = "200 OK") -> Behaviour:
    def behave(talk: Conversation) -> None:
        talk.head(status, [*headers, CHUNKED])
        for chunk in chunks:
            talk.chunk(chunk)
        talk.end_chunks()

    return behave


def _raw(data: bytes, *, close: bool = True) -> Behaviour:
    """Exactly these bytes, whatever the method."""

    def behave(talk: Conversation) -> None:
        talk.send(data)
        if close:
            talk.sock.close()

    return behave


def _headed(head: bytes, body: bytes, *, close: bool = True) -> Behaviour:
    """A head written by hand; the body is left away in answer to HEAD."""

    def behave(talk: Conversation) -> None:
        talk.send(head)
        talk.body(body)
        if close:
            talk.sock.close()

    return behave


def _compressed_events() -> list[bytes]:
    """A gzip stream flushed after each event, as servers do that stream compressed."""
    compressor = zlib.compressobj(wbits=31)
    pieces = [
        compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH) for event in chat_events()
    ]
    return [*pieces, compressor.flush()]


def _raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


_ERROR = b'{"error": {"message": "no", "type": "t", "param": null, "code": "c"}}'
_ERROR_FRAME = sse({"error": {"message": "overloaded", "code": 503}}, "error")
_MANY = [(f"X-Line-{number}", f"{number}-" + "v" * 400) for number in range(100)]

#: Valid answers, some of them odd.
PASSING: dict[str, Behaviour] = {
    "json": _whole("200 OK", [JSON_TYPE], CHAT_BYTES),
    "json-chunked": _in_chunks([JSON_TYPE], [CHAT_BYTES[:7], CHAT_BYTES[7:]]),
    "json-broken": _whole("200 OK", [JSON_TYPE], b'{"usage": {"prompt_tokens": '),
    "sse": _in_chunks([SSE_TYPE], chat_events()),
    "sse-crlf": _in_chunks([SSE_TYPE], [e.replace(b"\n", b"\r\n") for e in chat_events()]),
    "sse-cr": _in_chunks([SSE_TYPE], [e.replace(b"\n", b"\r") for e in chat_events()]),
    "sse-comments": _in_chunks([SSE_TYPE], [b": ping\n\n", *chat_events(), b":\n\n"]),
    "sse-many-lines": _in_chunks([SSE_TYPE], [b"id: 7\nretry: 10\ndata: {\ndata: }\ndata\n\n"]),
    "sse-error-frame": _in_chunks([SSE_TYPE], [chat_events()[0], _ERROR_FRAME]),
    "sse-no-last-line": _in_chunks([SSE_TYPE], [*chat_events()[:-1], b"data: [DONE]"]),
    "sse-no-done": _in_chunks([SSE_TYPE], chat_events()[:-1]),
    "sse-bom": _in_chunks([SSE_TYPE], [b"\xef\xbb\xbf" + chat_events()[0]]),
    "sse-with-length": _whole("200 OK", [SSE_TYPE], b"".join(chat_events())),
    "binary-chunks": _in_chunks(
        [("Content-Type", "audio/mpeg")], [EVERY_BYTE[:n] for n in (1, 2, 100, 256)] * 5
    ),
    "binary-length": _whole("200 OK", [("Content-Type", "image/png")], EVERY_BYTE * 1000),
    "chunk-extensions": _headed(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
        b'3;a=b\r\nabc\r\n003;q="1"\r\ndef\r\n0;last\r\n\r\n',
        close=False,
    ),
    "until-close": BEHAVIOURS["until-close"],
    "http-1.0": _headed(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"old"),
    "http-1.0-length": _headed(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", b"old"),
    "no-content-type": _whole("200 OK", [], b"what is it"),
    "gzip-json": _whole(
        "200 OK", [JSON_TYPE, ("Content-Encoding", "gzip")], gzip.compress(CHAT_BYTES, mtime=0)
    ),
    "gzip-sse": _in_chunks([SSE_TYPE, ("Content-Encoding", "gzip")], _compressed_events()),
    "deflate-json": _whole(
        "200 OK", [JSON_TYPE, ("Content-Encoding", "deflate")], zlib.compress(CHAT_BYTES)
    ),
    "raw-deflate": _whole(
        "200 OK", [JSON_TYPE, ("Content-Encoding", "deflate")], _raw_deflate(CHAT_BYTES)
    ),
    "not-gzip-at-all": _whole("200 OK", [JSON_TYPE, ("Content-Encoding", "gzip")], CHAT_BYTES),
    "unknown-encoding": _whole("200 OK", [JSON_TYPE, ("Content-Encoding", "br")], b"\x0b\x02\x80"),
    "trailers": BEHAVIOURS["trailers"],
    "one-interim": BEHAVIOURS["interim"],
    "many-interims": lambda talk: (
        talk.send(
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 102 Processing\r\nX-Interim: 1\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\n\r\n"
        ),
        talk.answer("200 OK", [PLAIN], b"final"),
    )[1],
    "empty-length": _whole("200 OK", [PLAIN], b""),
    "empty-chunked": _in_chunks([PLAIN], []),
    "empty-until-close": _headed(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b""),
    "no-content": BEHAVIOURS["no-content"],
    "no-content-length-0": _raw(
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", close=False
    ),
    "reset-content": _whole("205 Reset Content", [], b""),
    "partial": _whole("206 Partial Content", [("Content-Range", "bytes 0-1/9")], b"ab"),
    "not-modified": BEHAVIOURS["not-modified"],
    "not-modified-length": _raw(
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", close=False
    ),
    "moved": _whole("301 Moved Permanently", [("Location", "http://evil.invalid/v1/x")], b""),
    "found": BEHAVIOURS["redirect"],
    "see-other": _whole("303 See Other", [("Location", "/v1/other")], b"there"),
    "temporary": _whole("307 Temporary Redirect", [("Location", "?again")], b""),
    "permanent": _whole("308 Permanent Redirect", [("Location", "//host/v1")], b""),
    "unauthorized": _whole("401 Unauthorized", [JSON_TYPE, ("WWW-Authenticate", "X y")], _ERROR),
    "proxy-authentication": _whole("407 Proxy Authentication Required", [JSON_TYPE], _ERROR),
    "error-400": _whole("400 Bad Request", [JSON_TYPE], _ERROR),
    "error-429": _whole(
        "429 Too Many Requests",
        [
            JSON_TYPE,
            ("Retry-After", "7"),
            ("retry-after-ms", "6500"),
            ("x-ratelimit-limit-requests", "1"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ],
        _ERROR,
    ),
    "error-500": _whole("500 Internal Server Error", [JSON_TYPE], _ERROR),
    "error-502-html": _whole("502 Bad Gateway", [("Content-Type", "text/html")], b"<h1>502</h1>"),
    "error-503-chunked": _in_chunks([JSON_TYPE], [_ERROR], "503 Service Unavailable"),
    "error-sse": _in_chunks([SSE_TYPE], [_ERROR_FRAME], "529 Overloaded"),
    "odd-status": _whole("799 What's this?", [PLAIN], b"odd"),
    "latin-1-reason": _whole("200 Tr\xe8s bien", [PLAIN], b"bien"),
    "long-reason": _whole("200 " + "very " * 100 + "OK", [PLAIN], b"ok"),
    "many-spaces-reason": _whole("200  a  b\tc", [PLAIN], b"ok"),
    "no-reason": BEHAVIOURS["no-reason"],
    "odd-names": _whole(
        "200 OK", [("x!#$%&'*+-.^_`|~9", "token"), ("X_Under", "kept"), ("x-under", "2")], b"ok"
    ),
    "odd-values": _whole(
        "200 OK",
        [
            ("X-Empty", ""),
            ("X-Quotes", '"a, b"; c="\\"d"'),
            ("X-Inner", "a  b\tc"),
            ("X-Latin", "caf\xe9 \xff"),
            ("X-Utf8", "caf\xc3\xa9"),
            ("X-Comma", ",,a,"),
            ("X-Twice", "1"),
            ("x-TWICE", "2"),
            ("X-Twice", "1"),
        ],
        b"ok",
    ),
    "padded-values": _headed(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Pad: \t  padded \t\r\nX-Tight:no space\r\n\r\n",
        b"ok",
        close=False,
    ),
    "cookies": _whole(
        "200 OK",
        [("Set-Cookie", "a=1; Path=/"), ("X-Between", "1"), ("Set-Cookie", "b=2, c; Secure")],
        b"ok",
    ),
    "cors": _whole(
        "200 OK", [("Access-Control-Allow-Origin", "*"), ("Vary", "Origin"), ("Vary", "X")], b"ok"
    ),
    "names-like-ours": _whole(
        "200 OK", [("X-Request-Id", "req_1"), ("X-RateLimit-Remaining", "3"), ("Via", "1.1 a")], b""
    ),
    "two-types": _whole("200 OK", [JSON_TYPE, SSE_TYPE], CHAT_BYTES),
    "hundred-lines": _whole("200 OK", _MANY, b"ok"),
    "long-line": _whole("200 OK", [("X-Long", "v" * 60_000)], b"ok"),
    "longer-than-said": _headed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"four and more"),
    "hidden-answer": _headed(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"okHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden",
        close=False,
    ),
    "body-for-head": _raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"),
}

#: A good head and a body that never ends as it should. Not for HEAD.
BREAKING: dict[str, Behaviour] = {
    "cut-sse": BEHAVIOURS["cut-chunked"],
    "cut-length": BEHAVIOURS["cut-length"],
    "cut-in-chunk": _raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n12345"),
    "cut-before-last-chunk": _raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"
    ),
    "cut-in-last-chunk": _raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n"
    ),
    "cut-gzip": _raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: 999\r\n\r\n" + gzip.compress(CHAT_BYTES, mtime=0)[:50]
    ),
    "cut-empty": _raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
}


def _reset_midway(talk: Conversation) -> None:
    talk.head("200 OK", [PLAIN, CHUNKED])
    talk.chunk(b"before the reset")
    # The relay must have read it: a reset overtakes what waits in a socket's buffer.
    talk.upstream.gate.acquire()
    talk.reset()


def _bad_chunk_midway(talk: Conversation) -> None:
    talk.head("200 OK", [PLAIN, CHUNKED])
    talk.chunk(b"before the nonsense")
    talk.upstream.gate.acquire()
    talk.send(b"nonsense\r\n")
    talk.wait_for_close()


def _two_answers_midway(talk: Conversation) -> None:
    """A chunk whose end is missing: an answer in the place of a border."""
    talk.head("200 OK", [PLAIN, CHUNKED])
    talk.chunk(b"before the answer")
    talk.upstream.gate.acquire()
    talk.send(b"2\r\nabHTTP/1.1 200 OK\r\n\r\n")
    talk.wait_for_close()


def _last_chunk_with_nonsense(talk: Conversation) -> None:
    talk.head("200 OK", [PLAIN, CHUNKED])
    talk.upstream.gate.acquire()
    talk.send(b"11\r\nbefore the breaks\r\nnonsense\r\n")
    talk.wait_for_close()


BEHAVIOURS["last-chunk-with-nonsense"] = _last_chunk_with_nonsense

#: The same, one permit of the gate after their first chunk.
BREAKING_LATER: dict[str, Behaviour] = {
    "reset-midway": _reset_midway,
    "bad-chunk-midway": _bad_chunk_midway,
    "two-answers-midway": _two_answers_midway,
}


def _head(*lines: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


#: No valid answer: a relay that passes it on would have to guess.
INVALID: dict[str, Behaviour] = {
    "nothing": _raw(b""),
    "garbage": BEHAVIOURS["garbage"],
    "half-head": BEHAVIOURS["half-head"],
    "http-2": _raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "http-0.9": _raw(b"<html>hello</html>\r\n"),
    "http-9.9": _raw(b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "two-digits": _raw(b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    "status-words": _raw(b"HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n"),
    "only-interim": _raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "no-colon": _raw(_head(b"X-A b")),
    "no-name": _raw(_head(b": value")),
    "space-before-colon": _raw(_head(b"Content-Length : 0")),
    "space-in-name": _raw(_head(b"X A: b", b"Content-Length: 0")),
    "nul-in-value": _raw(_head(b"X-A: a\0b", b"Content-Length: 0")),
    "control-in-value": _raw(_head(b"X-A: a\x01b", b"Content-Length: 0")),
    "delete-in-value": _raw(_head(b"X-A: a\x7fb", b"Content-Length: 0")),
    "bare-cr-in-value": _raw(_head(b"X-A: a\rX-B: b", b"Content-Length: 0")),
    "control-in-reason": _raw(b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n"),
    "nul-in-reason": _raw(b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n"),
    "two-lengths": _raw(_head(b"Content-Length: 2", b"Content-Length: 3") + b"abc"),
    "length-list": _raw(_head(b"Content-Length: 2, 3") + b"abc"),
    "negative-length": _raw(_head(b"Content-Length: -1") + b"abc"),
    "hex-length": _raw(_head(b"Content-Length: 0x3") + b"abc"),
    "huge-length": _raw(_head(b"Content-Length: 99999999999999999999999") + b"abc"),
    "empty-length-value": _raw(_head(b"Content-Length:") + b"abc"),
    "length-and-chunks": BEHAVIOURS["both-lengths"],
    "endless-head": _raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 40_000),
    "endless-line": _raw(b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 300_000),
    "unasked-switch": _raw(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nbytes"
    ),
}

BEHAVIOURS.update(PASSING | BREAKING | BREAKING_LATER | INVALID)


# For arrival, size and sharing.


def _gated(head: Headers, *, chunked: bool) -> Behaviour:
    """Twenty pieces, one for each permit."""

    def behave(talk: Conversation) -> None:
        talk.head("200 OK", head)
        for piece in gated_pieces():
            talk.upstream.gate.acquire()
            (talk.chunk if chunked else talk.body)(piece)
        if chunked:
            talk.end_chunks()
        else:
            talk.sock.close()

    return behave


def gated_pieces() -> list[bytes]:
    """Sizes from one byte up; two in a row never look alike."""
    return [b"data: %d %s\n\n" % (n, b"x" * n**2) if n else b"d" for n in range(20)]


def _split_event(talk: Conversation) -> None:
    talk.head("200 OK", [SSE_TYPE, CHUNKED])
    for half in (b'data: {"a"', b": 1}\n\n", b"data: [DO", b"NE]\n\n"):
        talk.upstream.gate.acquire()
        talk.chunk(half)
    talk.end_chunks()


def _split_chunk(talk: Conversation) -> None:
    """One chunk of the framing in three writes: what has come of it is there to be had."""
    talk.head("200 OK", [SSE_TYPE, CHUNKED])
    for part in (b"c\r\ndata", b": 12345", b"\n\r\n1\r\n\n\r\n"):
        talk.upstream.gate.acquire()
        talk.send(part)
    talk.end_chunks()


def _drip(talk: Conversation) -> None:
    """``drip/<count>/<milliseconds>``: so many bytes with so much silence before each."""
    import gevent

    count, pause = map(int, talk.request.target.split("/")[-2:])
    talk.head("200 OK", [SSE_TYPE, CHUNKED])
    for _ in range(count):
        gevent.sleep(pause / 1000)
        talk.chunk(b":")
    talk.end_chunks()


_BLOCK = EVERY_BYTE * 1024


def _pour(talk: Conversation) -> None:
    """``pour/<bytes>/<length|chunked>``: so much of it, counted as it is sent."""
    count, framing = talk.request.target.split("/")[-2:]
    left = int(count)
    length = ("Content-Length", count) if framing == "length" else CHUNKED
    talk.head("200 OK", [("Content-Type", "application/octet-stream"), length])
    try:
        while left:
            block = _BLOCK if left >= len(_BLOCK) else _BLOCK[:left]
            (talk.chunk if framing == "chunked" else talk.send)(block)
            left -= len(block)
            talk.upstream.sent += len(block)
        if framing == "chunked":
            talk.end_chunks()
    except OSError:
        talk.upstream.left.set()
        raise


def _bomb() -> list[bytes]:
    """256 MB of zeros as 256 kB of gzip."""
    compressor = zlib.compressobj(9, wbits=31)
    zeros = bytes(1024 * 1024)
    return [*filter(None, (compressor.compress(zeros) for _ in range(256))), compressor.flush()]


def _heavy(talk: Conversation) -> None:
    """``heavy/<json|event|bomb>``: 200 MB that a meter might want to keep."""
    kind = talk.request.target.rpartition("/")[2]
    block = b'"' + b"x" * 256 * 1024 + b'",'
    content_type = SSE_TYPE if kind == "event" else JSON_TYPE
    encoding = [("Content-Encoding", "gzip")] if kind == "bomb" else []
    begin = b"data: [" if kind == "event" else b"["
    pieces = _bomb() if kind == "bomb" else [begin, *[block] * 800, b'""]\n\n']
    talk.head("200 OK", [content_type, *encoding, CHUNKED])
    for piece in pieces:
        talk.chunk(piece)
        talk.upstream.sent += len(piece)
    talk.end_chunks()


def _digest(talk: Conversation) -> None:
    """Size and checksum of the request's body, of which nothing is kept."""
    checksum = 0
    for piece in talk.pieces():
        talk.upstream.taken += len(piece)
        checksum = zlib.crc32(piece, checksum)
    answer = {"bytes": talk.upstream.taken, "crc32": checksum, "headers": talk.request.headers}
    talk.answer("200 OK", [JSON_TYPE], json.dumps(answer).encode())


def _subscribe_failing(talk: Conversation) -> None:
    """Reads nothing of the body until the gate opens."""
    talk.upstream.asked.set()
    talk.upstream.gate.acquire()
    _digest(talk)


BEHAVIOURS.update(
    {
        "gated-sse": _gated([SSE_TYPE, CHUNKED], chunked=True),
        "gated-binary": _gated([("Content-Type", "audio/mpeg"), CHUNKED], chunked=True),
        "gated-length": _gated(
            [PLAIN, ("Content-Length", str(sum(map(len, gated_pieces()))))], chunked=False
        ),
        "gated-until-close": _gated([PLAIN, ("Connection", "close")], chunked=False),
        "split-event": _split_event,
        "split-chunk": _split_chunk,
        "drip": _drip,
        "pour": _pour,
        "heavy": _heavy,
        "digest": _digest,
        "deaf": _subscribe_failing,
    }
)
EARLY.update({"digest", "deaf"})

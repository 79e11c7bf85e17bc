"""proxy/tools/sse_client.py: each delta at once, wherever the bytes are cut, and no cut for an
end."""

import io
import socket
import threading
from typing import Any

import orjson
import pytest
import requests
import urllib3

from proxy.tools.sse_client import StreamBroken, content, deltas


def response(*pieces: bytes, error: Exception | None = None) -> requests.Response:
    """A response whose connection hands out ``pieces`` one by one, then ``error`` or the end."""

    class Wire(io.RawIOBase):
        def __init__(self) -> None:
            self.left = list(pieces)

        def readable(self) -> bool:
            return True

        def read1(self, size: int = -1) -> bytes:
            if not self.left and error is not None:
                raise error
            return self.left.pop(0) if self.left else b""

    made = requests.Response()
    made.raw = urllib3.HTTPResponse(Wire(), preload_content=False)
    return made


def event(text: str) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"delta": {"content": text}}]}) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def texts(found: requests.Response) -> list[str]:
    return [content(chunk) for chunk in deltas(found)]


def test_events_cut_anywhere() -> None:
    whole = event("grüß") + b": a comment\r\nevent: x\r\n" + event("dich") + DONE
    for size in (1, 2, 7, len(whole)):
        pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
        assert texts(response(*pieces)) == ["grüß", "dich"]


def test_done_without_a_line_end() -> None:
    assert texts(response(event("a"), b"data:[DONE]")) == ["a"]


def test_the_body_is_read_to_its_end() -> None:
    found = response(event("a"), DONE, b"\n", b": bye\n")
    assert texts(found) == ["a"]
    assert found.raw.read1(10) == b""


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (response(event("a")), "cut off"),
        (response(event("a"), error=ConnectionResetError()), "broke"),
        (response(event("a"), error=urllib3.exceptions.ProtocolError("x")), "broke"),
        (response(event("a"), b"data: {oops\n\n"), "not JSON"),
        (response(event("a"), b'data: {"error": {"message": "No more."}}\n\n'), "No more."),
        (response(event("a"), b'data: {"error": "Odd."}\n\n'), "Odd."),
    ],
)
def test_what_is_no_end(found: requests.Response, message: str) -> None:
    chunks = deltas(found)
    assert content(next(chunks)) == "a"
    with pytest.raises(StreamBroken, match=message):
        next(chunks)


@pytest.mark.parametrize(
    "chunk",
    [{}, {"choices": []}, {"choices": [{}]}, {"choices": [{"delta": {"content": None}}]}],
)
def test_chunks_without_text(chunk: dict[str, Any]) -> None:
    assert content(chunk) == ""


def test_what_is_no_object_is_passed_over() -> None:
    assert texts(response(b"data: 1\n\n", event("a"), DONE)) == ["a"]


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Connection: close"])
def test_each_delta_is_there_at_once(framing: bytes) -> None:
    """Over a real socket: an answer that is not chunked is where ``iter_lines`` would wait."""
    chunked = framing.startswith(b"Transfer")
    taken = threading.Semaphore(0)
    in_time = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
            for data in (event("a"), event("b"), DONE):
                connection.sendall(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
                if data is not DONE:
                    in_time.append(taken.acquire(timeout=20))
            if chunked:
                connection.sendall(b"0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        with requests.get(f"http://127.0.0.1:{port}/", stream=True, timeout=5) as found:
            seen = []
            for chunk in deltas(found):
                seen.append(content(chunk))
                taken.release()
        thread.join()
    assert seen == ["a", "b"]
    assert in_time == [True] * 2, "the next is sent once the client has the one before"

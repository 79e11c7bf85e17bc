"""Both ends of a WebSocket, by a foreign implementation (wsproto)."""

import json
import socket
import ssl

from gevent.event import Event
from gevent.server import StreamServer
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

USAGE = {"total_tokens": 9, "input_tokens": 4, "output_tokens": 5}
DONE = {"type": "response.done", "response": {"id": "resp_9", "usage": USAGE}}
USAGE_OF_TWO = {"total_tokens": 2, "input_tokens": 1, "output_tokens": 1}


def _ended(kind: str, number: int, **more: object) -> str:
    response = {"id": f"resp_{number}", "object": "response", "usage": USAGE_OF_TWO, **more}
    return json.dumps({"type": kind, "response": response})


#: What the server says when it is asked for it by name; each counts two tokens.
SAYINGS = {
    "completed": _ended("response.completed", 1),
    "incomplete": _ended("response.incomplete", 2, status="incomplete"),
    "half": _ended("response.done", 3, output=[{"transcript": "cut \ud83d"}]),
    "large": _ended("response.done", 4, output=[{"audio": "A" * (2 << 20)}]),
    "transcribed": json.dumps(
        {"type": "conversation.item.input_audio_transcription.completed", "usage": USAGE_OF_TWO}
    ),
    "unreadable": '{"type": "response.done", "usage" oops',
}


class Realtime:
    """A server of the realtime API: says hello, echoes, and counts in `response.done`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.closed = Event()
        options = {"ssl_context": context} if context else {}
        self._server = StreamServer(("127.0.0.1", 0), self._serve, **options)
        self._server.start()
        scheme = "https" if context else "http"
        self.url = f"{scheme}://localhost:{self._server.server_port}"

    def stop(self) -> None:
        self._server.stop(timeout=1)

    def _serve(self, sock: socket.socket, address: object) -> None:
        talk = WSConnection(ConnectionType.SERVER)
        try:
            while data := sock.recv(65536):
                talk.receive_data(data)
                for event in talk.events():
                    self._answer(sock, talk, event)
        except OSError:
            pass
        finally:
            self.closed.set()
            sock.close()

    def _answer(self, sock: socket.socket, talk: WSConnection, event: object) -> None:
        if isinstance(event, Request):
            self.requests.append(event)
            if event.target.startswith("/v1/refuse"):
                head = RejectConnection(
                    status_code=403,
                    headers=[(b"Content-Type", b"application/json"), (b"Content-Length", b"2")],
                    has_body=True,
                )
                sock.sendall(talk.send(head) + talk.send(RejectData(data=b"{}")))
                return
            protocol = next(iter(event.subprotocols), None)
            created = {"type": "session.created", "session": {"model": "gpt-realtime"}}
            # The first message comes in one packet with the head.
            sock.sendall(
                talk.send(AcceptConnection(subprotocol=protocol))
                + talk.send(Message(data=json.dumps(created)))
            )
        elif isinstance(event, TextMessage) and event.message_finished:
            if event.data == "done":
                sock.sendall(talk.send(Message(data=json.dumps(DONE))))
            elif event.data in SAYINGS:
                sock.sendall(talk.send(Message(data=SAYINGS[event.data])))
            elif event.data == "drop":
                sock.close()
            else:
                sock.sendall(talk.send(Message(data=f"echo {event.data}")))
        elif isinstance(event, BytesMessage):
            sock.sendall(talk.send(Message(data=bytes(event.data))))
        elif isinstance(event, Ping | CloseConnection):
            sock.sendall(talk.send(event.response()))


class Client:
    """A WebSocket client on a plain socket."""

    def __init__(self, port: int, request: Request) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._talk = WSConnection(ConnectionType.CLIENT)
        self._events: list[object] = []
        self.sock.sendall(self._talk.send(request))

    def send(self, data: str | bytes) -> None:
        self.sock.sendall(self._talk.send(Message(data=data)))

    def ping(self) -> None:
        self.sock.sendall(self._talk.send(Ping(payload=b"p")))

    def close(self) -> None:
        self.sock.sendall(self._talk.send(CloseConnection(code=1000)))

    def next(self) -> object:
        while not self._events:
            data = self.sock.recv(65536)
            self._talk.receive_data(data or None)
            self._events.extend(self._talk.events())
        return self._events.pop(0)

    def text(self) -> str:
        data = ""
        while True:
            event = self.next()
            assert isinstance(event, TextMessage), event
            data += event.data
            if event.message_finished:
                return data


def opening(token: str, target: str = "/v1/realtime?model=gpt-realtime") -> Request:
    headers = [(b"Authorization", f"Bearer {token}".encode()), (b"OpenAI-Beta", b"realtime=v1")]
    return Request(host="t", target=target, extra_headers=headers)

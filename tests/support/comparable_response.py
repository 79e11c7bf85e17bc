"""The part of a response that must be the same with and without the proxy."""

from tests.support.raw_client import RawResponse

#: Headers of the answering server or of the hop, not of the message.
HOP = {"server", "date", "connection", "keep-alive", "transfer-encoding", "trailer"}
#: Headers that the proxy adds.
OURS = {
    "x-proxy",
    "x-proxy-request-id",
    "server-timing",
    "x-accel-buffering",
    "x-upstream-request-start",
    "x-upstream-request-stop",
}


def comparable(response: RawResponse) -> tuple[str, list[tuple[str, str]], bytes, bool]:
    headers = [(k, v) for k, v in response.headers if k.lower() not in HOP | OURS]
    return response.status_line, headers, response.body, response.clean

"""What is left of an answer to be compared with the same one by another way."""

from tests.support.raw_client import RawAnswer

#: Of the server that answers, not of the message: replaced, or about the hop.
HOP = {"server", "date", "connection", "keep-alive", "transfer-encoding", "trailer"}
OURS = {
    "x-proxy-request-id",
    "server-timing",
    "x-accel-buffering",
    "x-upstream-request-start",
    "x-upstream-request-stop",
}


def comparable(answer: RawAnswer) -> tuple[str, list[tuple[str, str]], bytes, bool]:
    headers = [(k, v) for k, v in answer.headers if k.lower() not in HOP | OURS]
    return answer.status_line, headers, answer.body, answer.clean

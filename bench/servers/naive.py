"""The naive version: what one writes in an afternoon with Flask and requests.

Its pool is as large as the load, so that it is not beaten for a default.
"""

import os
from typing import Final

import requests
from flask import Flask, Response, request
from requests.adapters import HTTPAdapter

UPSTREAM: Final = os.environ["UPSTREAM"]
_NOT_SENT = frozenset({"host", "authorization", "connection", "content-length"})
_NOT_RETURNED = frozenset({"connection", "server", "date", "transfer-encoding", "keep-alive"})

app = Flask(__name__)
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_maxsize=4096))


@app.route("/<path:path>", methods=["GET", "POST"])
def relay(path: str) -> Response:
    headers = {name: value for name, value in request.headers if name.lower() not in _NOT_SENT}
    headers["Authorization"] = "Bearer sk-upstream"
    answer = session.request(
        request.method,
        f"{UPSTREAM}/{path}",
        data=request.get_data(),
        headers=headers,
        stream=True,
        timeout=600,
    )
    kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in _NOT_RETURNED]
    return Response(answer.iter_content(65536), answer.status_code, kept)

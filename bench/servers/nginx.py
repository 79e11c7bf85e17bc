"""nginx's configuration, as an upstream that answers at once and as a contender."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_MAIN: Final = """\
daemon off;
{user}worker_processes {workers};
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{http}
}}
"""
_UPSTREAM: Final = """\
    log_format sent "$bytes_sent";
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            default_type application/json;
{headers}
            return 200 {answer};
        }}
        location /v1/files/ {{
            access_log sent.log sent;
            default_type application/octet-stream;
            try_files /large =404;
            root {folder};
        }}
    }}
"""
_PROXY: Final = """\
    upstream model {{ server 127.0.0.1:{upstream}; keepalive 256; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer sk-upstream";
            proxy_buffering off;
            proxy_read_timeout 600;
        }}
    }}
"""


def upstream(folder: Path, port: int, answer: str, headers: Mapping[str, str]) -> Path:
    """Answers every chat at once; a file under `/v1/files/` is ``folder/large``.

    The number of bytes it could send of each file is written to `sent.log`, one a line.
    """
    lines = "\n".join(f"            add_header {k} {json.dumps(v)};" for k, v in headers.items())
    http = _UPSTREAM.format(port=port, headers=lines, answer=f"'{answer}'", folder=folder)
    return _write(folder, http, workers=1)


def proxy(folder: Path, port: int, upstream_port: int, *, workers: int) -> Path:
    return _write(folder, _PROXY.format(port=port, upstream=upstream_port), workers=workers)


def _write(folder: Path, http: str, *, workers: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nginx.conf"
    # Started as root, its workers would become a user that cannot enter a temporary folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    path.write_text(_MAIN.format(user=user, workers=workers, http=http))
    return path

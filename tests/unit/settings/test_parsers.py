"""proxy/settings/parsers.py: what each kind of setting takes, refuses, and never repeats."""

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import parsers as parse

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()

ALL: dict[str, Callable[[str], Any]] = {
    "text": parse.text,
    "host": parse.host,
    "path": parse.path,
    "event_log": parse.event_log,
    "integer": parse.integer(1, 10),
    "seconds": parse.seconds(0.1),
    "size": parse.size,
    "size_or_zero": partial(parse.size, min_bytes=0),
    "duration": parse.duration,
    "megabytes": parse.megabytes,
    "choice": parse.choice("a", "b"),
    "secrets": parse.secrets(16, max_count=2),
    "switch": parse.switch,
    "key_of_32_bytes": parse.key_of_32_bytes,
    "keys_of_32_bytes": parse.keys_of_32_bytes,
    "database_url": parse.database_url,
    "base_url": parse.base_url,
    "forward_proxy_url": parse.forward_proxy_url,
    "endpoint_url": parse.endpoint_url,
    "redis_url": parse.redis_url,
    "header_secret": parse.header_secret,
    "stream_name": parse.stream_name,
    "log_group": parse.log_group,
    "log_stream": parse.log_stream,
    "origins": parse.origins,
}

GOOD: list[tuple[str, str, Any]] = [
    ("switch", "on", True),
    ("switch", "OFF", False),
    ("text", "anything", "anything"),
    ("host", "127.0.0.1", "127.0.0.1"),
    ("host", "::1", "::1"),
    ("host", "[::1]", "::1"),
    ("host", "0:0:0:0:0:0:0:1", "::1"),
    ("host", "localhost", "localhost"),
    ("path", "data/x", Path("data/x")),
    ("path", "~/x", Path.home() / "x"),
    ("event_log", "STDOUT", "stdout"),
    ("event_log", "Off", "off"),
    ("event_log", "off.jsonl", "off.jsonl"),
    ("event_log", "~/usage.jsonl", str(Path.home() / "usage.jsonl")),
    ("integer", "1", 1),
    ("integer", "10", 10),
    ("integer", "007", 7),
    ("seconds", "0.1", 0.1),
    ("seconds", "5", 5.0),
    ("seconds", "31536000", 31_536_000.0),
    ("size", "1", 1),
    ("size", "64KiB", 65536),
    ("size", "512 MiB", 512 * 1024**2),
    ("size", "1gib", 1024**3),
    ("size", "7B", 7),
    ("duration", "0", 0.0),
    ("duration", "300", 300.0),
    ("duration", "0.5", 0.5),
    ("duration", "90s", 90.0),
    ("duration", "5m", 300.0),
    ("duration", "1.5 H", 5400.0),
    ("duration", "365d", 31_536_000.0),
    ("megabytes", "1", 1024**2),
    ("megabytes", "100", 100 * 1024**2),
    ("megabytes", "512MiB", 512 * 1024**2),
    ("megabytes", "2097152B", 2 * 1024**2),
    ("megabytes", "1 GiB", 1024**3),
    ("size_or_zero", "0", 0),
    ("size_or_zero", "1KiB", 1024),
    ("choice", "A", "a"),
    ("secrets", "x" * 16, ("x" * 16,)),
    ("secrets", f"{'x' * 16} , {'y' * 20}", ("x" * 16, "y" * 20)),
    ("key_of_32_bytes", KEY_TEXT, KEY),
    ("keys_of_32_bytes", "", ()),
    ("keys_of_32_bytes", f"{KEY_TEXT}, {KEY_TEXT},", (KEY, KEY)),
    ("database_url", "sqlite:///data/proxy.db", "sqlite:///data/proxy.db"),
    ("database_url", "sqlite:////var/proxy.db", "sqlite:////var/proxy.db"),
    ("database_url", "mysql://u:p@h:3306/n", "mysql://u:p@h:3306/n"),
    ("database_url", "mysql://u:p@/n?unix_socket=/s", "mysql://u:p@/n?unix_socket=/s"),
    ("database_url", "postgresql://u:p@h/n", "postgresql://u:p@h/n"),
    ("database_url", "postgresql://u@/n?host=/run/pg", "postgresql://u@/n?host=/run/pg"),
    ("base_url", "https://api.openai.com", "https://api.openai.com"),
    ("base_url", "https://api.openai.com/v1/", "https://api.openai.com"),
    ("base_url", "http://h:8080/prefix/v1", "http://h:8080/prefix"),
    ("base_url", "http://h/api/", "http://h/api"),
    ("base_url", "http://h/v1beta", "http://h/v1beta"),
    ("base_url", "http://[::1]:9000", "http://[::1]:9000"),
    ("forward_proxy_url", "http://u:p@h:3128", "http://u:p@h:3128"),
    ("forward_proxy_url", "http://h:3128/", "http://h:3128/"),
    ("endpoint_url", "https://h:8443/in/?key=%2F", "https://h:8443/in/?key=%2F"),
    ("redis_url", "redis://h", "redis://h"),
    ("redis_url", "rediss://u:p@h:6380/1", "rediss://u:p@h:6380/1"),
    ("redis_url", "unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
    ("header_secret", "a+/=~", "a+/=~"),
    ("stream_name", "proxy:{events}.1-a_b", "proxy:{events}.1-a_b"),
    ("log_group", "/aws/proxy_1.x#y", "/aws/proxy_1.x#y"),
    ("log_stream", "{hostname}/{pid} a", "{hostname}/{pid} a"),
    ("origins", "*", ("*",)),
    ("origins", "https://a.example/, http://b:80", ("https://a.example", "http://b:80")),
    ("origins", "https://*.preview.example.com", ("https://*.preview.example.com",)),
    ("origins", "http://[::1]:80", ("http://[::1]:80",)),
]

BAD: list[tuple[str, str]] = [
    *(("host", value) for value in ("a b", "localhost:80", "http://h", "h/", "1::2::3", "ü")),
    *(("path", value) for value in ("~nobody-of-this-name/x",)),
    *(("integer", value) for value in ("0", "11", "-1", "+1", "1.0", "1_0", "x", "٣", "1" * 5000)),
    *(("seconds", value) for value in ("0", "0.09", "-1", "nan", "inf", "1e3", "x", "31536001")),
    *(("size", value) for value in ("0", "-1", "1.5MiB", "64KB", "1TiB", "x", "٣", "1 MiB x")),
    *(
        ("duration", value)
        for value in ("-1", "m", "5 min", "1h30m", "366d", "1e3", "nan", "٣", "5w")
    ),
    *(
        ("megabytes", value)
        for value in ("0", "-1", "104857600", "1.5", "100MB", "1023KiB", "٣", "x")
    ),
    *(("choice", value) for value in ("c", "ab")),
    ("secrets", "x" * 15),
    ("secrets", f"{'x' * 16},"),
    ("secrets", f"{'x' * 16},short"),
    ("secrets", ",".join(["x" * 16] * 3)),
    ("secrets", "x" * 16 + " y"),
    ("secrets", "é" * 16),
    ("secrets", "x" * 16 + "\x7f"),
    ("key_of_32_bytes", base64.b64encode(KEY[:31]).decode()),
    ("key_of_32_bytes", KEY.hex()),
    ("key_of_32_bytes", KEY_TEXT + "!"),
    ("key_of_32_bytes", "é" * 44),
    ("keys_of_32_bytes", f"{KEY_TEXT},x"),
    *(
        ("database_url", value)
        for value in (
            "proxy.db",
            "postgres://u:p@h/n",
            "postgresql://u:p@h:5432/",
            "postgresql:///n",
            "postgresql://u:p@h:x/n",
            "sqlite://",
            "sqlite:///",
            "sqlite:////",
            "sqlite://relative",
            "sqlite:///:memory:",
            "sqlite:///a?mode=ro",
            "sqlite:///folder/",
            "mysql://u:p@h:3306/",
            "mysql:///n",
            "mysql://u:p@h:x/n",
            "mysql://u:p@h:0/n",
            "mysql://u:sla/sh@h/n",
        )
    ),
    *(
        ("endpoint_url", value)
        for value in ("h/in", "ftp://h", "http://", "http://u:p@h/in", "http://h/#x", "http://h/ x")
    ),
    *(
        ("redis_url", value)
        for value in ("h:6379", "http://h", "redis://", "redis://h/x", "redis://h:0", "unix://h/x")
    ),
    *(("header_secret", value) for value in ("a b", "é", "a\r\nb", "a\x7f")),
    *(("stream_name", value) for value in ("a b", "a/b", "é", "x" * 201)),
    *(("log_group", value) for value in ("a b", "a:b", "é", "x" * 513)),
    *(("log_stream", value) for value in ("a:b", "a*b", "{name}", "{", "a\nb", "x" * 401)),
    *(
        ("base_url", value)
        for value in (
            "api.openai.com",
            "ftp://h",
            "http://",
            "http://u:p@h",
            "http://h?x",
            "http://h?",
            "http://h#",
            "http://h:70000",
            "http://h:0",
            "http://h/ü",
            "http://h/a b",
            "http://h\\evil",
            "http://[::1",
        )
    ),
    *(
        ("forward_proxy_url", value)
        for value in ("https://h:1", "socks5://h:1", "http://h:1/x", "http://", "http://h:1?x")
    ),
    *(
        ("origins", value)
        for value in ("example.com", "https://a/b", "https://a?b", "https://a, b", "null")
    ),
]


@pytest.mark.parametrize(("kind", "value", "expected"), GOOD)
def test_good(kind: str, value: str, expected: Any) -> None:
    assert ALL[kind](value) == expected


@pytest.mark.parametrize(("kind", "value"), BAD)
def test_bad(kind: str, value: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        ALL[kind](value)


def refusal(kind: str, value: str) -> ValueError | None:
    try:
        ALL[kind](value)
    except ValueError as error:
        return error
    return None


@pytest.mark.parametrize("kind", ALL)
@given(noise=st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
def test_no_message_repeats_what_was_given(kind: str, noise: str) -> None:
    marker = f"PASSWORD{noise}"
    for value in (marker, f"mysql://u:{marker}@h:x/n", f"http://u:{marker}@h:1", f"sk-{marker}"):
        found = refusal(kind, value)
        assert "PASSWORD" not in str(found)
        assert found is None or found.__cause__ is None


@given(number=st.integers(-100, 100))
def test_integer_takes_exactly_its_range(number: int) -> None:
    parser = parse.integer(0, 50)
    if 0 <= number <= 50:
        assert parser(str(number)) == number
    else:
        with pytest.raises(ValueError, match="from 0 to 50"):
            parser(str(number))

"""Patterns of endpoints, and a fuzz of the matcher against everything that may rewrite a path.

The judge of the fuzz is another reader of paths, made to be generous: it decodes as often as
anything decodes, takes every separator for one, resolves, cuts and lowers. Whatever the matcher
allows must be, after all that, still below an allowed pattern.
"""

import random
import re
import unicodedata
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policy.endpoints import Endpoints, endpoint_pattern, plain_segments

PATTERNS = (
    "/v1/models",
    "/v1/chat/completions",
    "/v1/threads/*/messages",
    "/v1/files/**",
    "/v1/batches/*",
)
ALLOWED = Endpoints(PATTERNS)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models", True),
        ("/v1/modelsX", False),
        ("/v1/models/", False),
        ("/v1/models/a", False),
        ("/v1/model", False),
        ("/v1/Models", False),
        ("/v1/%6dodels", True),
        ("/v1/%6Dodels", True),
        ("/v1/chat/completions", True),
        ("/v1/chat", False),
        ("/v1/chat/completions/x", False),
        ("/v1/threads/t-1/messages", True),
        ("/v1/threads/t%3A1/messages", True),
        ("/v1/threads//messages", False),
        ("/v1/threads/a/b/messages", False),
        ("/v1/threads/a%2Fb/messages", False),
        ("/v1/threads/messages", False),
        ("/v1/files", False),
        ("/v1/files/", False),
        ("/v1/files/a", True),
        ("/v1/files/a/content", True),
        ("/v1/files/a/../../models", False),
        ("/v1/batches/b", True),
        ("/v1/batches/*", False),
        ("/v1/batches/**", False),
        ("", False),
        ("/", False),
        ("v1/models", False),
        ("*", False),
    ],
)
def test_whole_segments(path: str, allowed: bool) -> None:
    assert ALLOWED.allow(path) is allowed


def test_star_alone_is_below_v1() -> None:
    everything = Endpoints(["/v1/**"])
    assert everything.allow("/v1/a/b")
    assert not everything.allow("/v1")
    assert not everything.allow("/v2/a")


TRICKS = [
    "/v1/files/a/%2e%2e/%2e%2e/secrets",
    "/v1/files/%2e%2e/secrets",
    "/v1/files/..%2fsecrets",
    "/v1/files/..%5csecrets",
    "/v1/files/..;/secrets",
    "/v1/files/.;x/secrets",
    "/v1/files/a/..%00/secrets",
    "/v1/files/%252e%252e/secrets",
    "/v1/files/%c0%ae%c0%ae/secrets",
    "/v1/files/%c0%af../secrets",
    "/v1/files/%e0%80%ae%e0%80%ae/secrets",
    "/v1/files/%uff0e%uff0e/secrets",
    "/v1/files/%ef%bc%8e%ef%bc%8e/secrets",
    "/v1/files/\uff0e\uff0e/secrets",
    "/v1/files/\u2025/secrets",
    "/v1/files//secrets",
    "/v1/files/\\..\\secrets",
    "/v1/files/a%3f",
    "/v1/files/a%23",
    "/v1/files/a%0d%0aX:1",
    "/v1/files/a\x00",
    "/v1/files/a%00.json",
    "/v1/files/a b",
    "/v1/files/a%20",
    "/v1/files/a\t",
    "/v1/files/%",
    "/v1/files/%2",
    "/v1/files/%zz",
    "/v1/models;x=y",
    "/v1/models;/../secrets",
    "/v1/models%3bx",
    "/v1/models%2f..%2fsecrets",
    "/v1/models%00",
    "/v1/models%20",
    "/v1/models.",
    "/v1/models..",
    "/v1/models#x",
    "/v1//models",
    "//v1/models",
    "/v1/./models",
    "/V1/models",
    "/v1\\models",
    "/v1%2fmodels",
    "/v1/\uff4d\uff4f\uff44\uff45\uff4c\uff53",
    "/v1/threads/../messages",
    "/v1/threads/./messages",
    "/v1/threads/%2e/messages",
    "/v1/threads/a;b/messages",
    "http://evil/v1/models",
]


@pytest.mark.parametrize("path", TRICKS)
def test_known_tricks(path: str) -> None:
    assert not ALLOWED.allow(path)


# The judge.


def generous(path: str) -> list[str]:
    """The segments that a path comes down to for whoever rewrites the most."""
    raw = path.encode("utf-8", "surrogateescape")
    for _ in range(6):
        raw = unquote_to_bytes(raw)
    # Overlong forms, as decoders took them that did not check.
    raw = re.sub(
        rb"[\xc0\xc1][\x80-\xbf]", lambda m: bytes([((m[0][0] & 3) << 6) | (m[0][1] & 63)]), raw
    )
    raw = re.sub(rb"\xe0[\x80-\x9f][\x80-\xbf]", lambda m: bytes([m[0][2] & 127]), raw)
    text = unicodedata.normalize("NFKC", raw.decode("utf-8", "replace")).lower()
    text = re.split("[\0?#\r\n]", text)[0].replace("\\", "/")
    resolved: list[str] = []
    for segment in text.split("/"):
        bare = segment.partition(";")[0].strip(" \t")
        if bare == "..":
            resolved[-1:] = []
        elif bare not in ("", "."):
            resolved.append(bare.rstrip(".") or bare)
    return resolved


def below_a_pattern(segments: list[str]) -> bool:
    for pattern in PATTERNS:
        parts = pattern[1:].split("/")
        text = "/".join(
            ".+" if part == "**" else "[^/]+" if part == "*" else re.escape(part) for part in parts
        )
        if re.fullmatch(text, "/".join(segments)):
            return True
    return False


def agree(path: str) -> bool:
    """Whether the path is allowed; and if it is, the judge must say so too."""
    allowed = ALLOWED.allow(path)
    assert not allowed or below_a_pattern(generous(path)), path
    return allowed


PIECES = st.sampled_from(
    [
        *("/", "//", "\\", "/./", "/../", "..", ".", ";", "?", "#", "%", "%25", "%2f", "%2F"),
        *("%5c", "%2e", "%2E%2e", "%00", "\0", "%c0%af", "%c0%ae", "%e0%80%af", "%ef%bc%8f"),
        *("\uff0f", "\uff0e", "\u2024", "\u2215", "%20", " ", "+", "%09", "*", "**", ":", "@", "~"),
        *("v1", "V1", "models", "Models", "%6dodels", "chat", "completions", "threads", "files"),
        *("messages", "batches", "a", "secrets", "%61", "%2561", "=", "&", ",", "\r\n", "%0a"),
    ]
)


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.lists(PIECES, max_size=9), st.sampled_from(["/v1/", "/v1/files/", "/v1/threads/", ""]))
@example(["%252e%252e", "/", "secrets"], "/v1/files/")
def test_what_is_allowed_lies_below_a_pattern(pieces: list[str], start: str) -> None:
    agree(start + "".join(pieces))


def test_mutations_of_allowed_paths_and_of_tricks() -> None:
    """Allowed paths and known tricks, changed at random; some stay allowed, so that this shows
    something."""
    chance = random.Random(7)
    seeds = [
        *TRICKS,
        *("/v1/models", "/v1/chat/completions", "/v1/files/a/b", "/v1/threads/t/messages"),
    ]
    bits = ["", *"/\\.;%?#*+:aM~ \0", "%2f", "%2e", "%61", "%25", "%5C", "..", "//", "\uff0f", "é"]
    stayed = 0
    for _ in range(20_000):
        path = chance.choice(seeds)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(path) + 1)
            path = path[:at] + chance.choice(bits) + path[at + chance.randint(0, 2) :]
        stayed += agree(path)
    assert stayed > 100


@settings(max_examples=30)
@given(st.lists(st.from_regex(r"[A-Za-z0-9._~:@-]{1,6}", fullmatch=True), min_size=1, max_size=4))
def test_plain_paths_are_what_they_are(segments: list[str]) -> None:
    path = "/v1/" + "/".join(segments)
    dotted = {".", ".."} & set(segments)
    assert plain_segments(path) == (None if dotted else ("v1", *segments))
    escaped = "/v1/" + "/".join("".join(f"%{ord(char):02x}" for char in s) for s in segments)
    assert plain_segments(escaped) == plain_segments(path)
    if not dotted:
        assert endpoint_pattern(path) == path
        assert Endpoints([path]).allow(path)

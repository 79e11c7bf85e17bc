"""The model in a request's target, as realtime connections have it: `/v1/realtime?model=…`.

Note: only its value is replaced. All other bytes of the query stay as the client wrote them.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from proxy.core.errors import ClientError
from proxy.core.escapes import readings

#: Parameters, in lower case, that are a credential or say whose account pays, to Google and Azure.
_OF_THE_ACCOUNT: Final = frozenset(
    {
        b"key",
        b"access_token",
        b"oauth_token",
        b"userproject",
        b"$userproject",
        b"api-key",
        b"subscription-key",
    }
)
#: The longest name of a model in a target, in bytes.
_MAX_BYTES: Final = 1024
#: One segment stands for the model.
_DEPLOYMENT: Final = re.compile(rb"/v1/deployments/[^/?#]+/")


def query_model(target: bytes) -> str | None:
    """Return the value of `model` in the query of `target`; None when it is absent.

    Raises ClientError `invalid_request` where two readers could disagree: it is there twice, in
    another case, spelled with escapes, or is not UTF-8.
    """
    span = _span(target)
    if span is None:
        return None
    start, end = span
    try:
        model = unquote_to_bytes(target[start:end].replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise _wrong("must be UTF-8") from error
    if not model.isprintable() or end - start > _MAX_BYTES:
        raise _wrong(f"must be printable, and {_MAX_BYTES} bytes at most")
    return model


def with_query_model(target: bytes, model: str | None, name: str = "model") -> bytes:
    """Return `target` with `model` in place of the value of `model`; unchanged without one.

    None keeps the value. `name` is the new name of the parameter. Raises as :func:`query_model`.
    """
    span = _span(target)
    if span is None:
        return target
    start, end = span
    value = target[start:end] if model is None else quote(model, safe="").encode()
    begin = target[:start].rstrip(b"=")[: -len(b"model")]
    return begin + name.encode() + b"=" + value + target[end:]


def with_query_value(target: bytes, name: str, value: str) -> bytes:
    """Return `target` with `name=value` at the end of its query, and nowhere else in it."""
    path, question, query = target.partition(b"?")
    kept = [
        pair
        for pair in query.split(b"&")
        if unquote_to_bytes(pair.partition(b"=")[0]).strip().lower() != name.encode()
    ]
    pairs = [*(kept if question else []), f"{name}={quote(value, safe='')}".encode()]
    return path + b"?" + b"&".join(pair for pair in pairs if pair)


def without_account(target: bytes) -> bytes:
    """Return `target` without parameters that say whose account pays, for a shared provider.

    Its key decides that. Sent on, they would let one client make a key look refused to all others.
    """
    if b"?" not in target:
        return target
    kept, at = bytearray(), 0
    for start, equals, end in _pairs(target):
        if _names_account(target[start:equals]):
            kept += target[at:start]
            at = min(end + 1, len(target))
    if not at:
        return target
    return bytes(kept + target[at:]).rstrip(b"&;?")


def without_deployment(target: bytes) -> bytes:
    """Return `/v1/{endpoint}` for `/v1/deployments/{model}/{endpoint}?api-version=…`, as Azure's
    clients write it: a shared provider has the model from the body and a version of its own.
    """
    found = _DEPLOYMENT.match(target)
    if found is None:
        return target
    target = b"/v1/" + target[found.end() :]
    kept, at = bytearray(), 0
    for start, equals, end in _pairs(target):
        if target[start:equals].lower() == b"api-version":
            kept += target[at:start]
            at = min(end + 1, len(target))
    return bytes(kept + target[at:]).rstrip(b"&;?") if at else target


def _names_account(name: bytes) -> bool:
    decoded = (each.encode("latin-1") for each in readings(name.decode("latin-1")))
    return any(each.replace(b"+", b" ").strip().lower() in _OF_THE_ACCOUNT for each in decoded)


def _span(target: bytes) -> tuple[int, int] | None:
    """Return where the value of `model` is."""
    found = None
    for start, equals, end in _pairs(target):
        written = target[start:equals]
        # Case, and escapes of any kind, are looked at to refuse them.
        name = unquote_to_bytes(written.replace(b"+", b" ")).strip().lower()
        if name.partition(b"[")[0] != b"model":
            continue
        if written != b"model":
            raise _wrong("must be written as `model`")
        if found is not None:
            raise _wrong("is there twice")
        found = (min(equals + 1, end), end)
    return found


def _pairs(target: bytes) -> Iterator[tuple[int, int, int]]:
    """The spans of `name=value` pairs: begin, the place of the equals sign, end.

    A semicolon ends a pair for some servers (HTML 4.01 §B.2.2), so it does here.
    """
    at = target.find(b"?") + 1
    if not at:
        return
    query = target.replace(b";", b"&")
    while at <= len(target):
        end = query.find(b"&", at)
        end = len(target) if end < 0 else end
        equals = target.find(b"=", at, end)
        yield at, end if equals < 0 else equals, end
        at = end + 1


def _wrong(what: str) -> ClientError:
    return ClientError(f"`model` in the query {what}.", param="model")

"""A request's body, scanned once, and edited in its text for each attempt.

Note: what counts is what the upstream will read. Where two readers could disagree on a parameter,
the body is refused instead of guessed at: the model decides where the request goes and what it may
cost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError
from proxy.core.media_type import is_json
from proxy.providers.base import EditableBody
from proxy.providers.edits import plan
from proxy.providers.form import EditableForm
from proxy.runtime.yielding import turn_if_due
from proxy.usage.json_grammar import members_by_grammar
from proxy.usage.json_slices import decoded_in_turns
from proxy.usage.json_spans import Member, top_members
from proxy.usage.large import LargeObject
from proxy.usage.splice import Splice, spliced

#: No request has as many top-level parameters.
MAX_MEMBERS: Final = 1000
#: Brackets of a body, those that close included. Each takes half a microsecond.
MAX_BRACKETS: Final = 1024 * 1024
#: The longest value that :meth:`EditableJSON.short` reads, in bytes of its text.
MAX_SHORT_BYTES: Final = 16 * 1024
#: The longest name of a model, in characters.
MAX_MODEL_LENGTH: Final = 1024
# A body of so many bytes and brackets is read at once, which takes some two milliseconds. Larger
# ones are read by slices.
_AT_ONCE: Final = 64 * 1024
_BRACKETS_AT_ONCE: Final = 4 * 1024
# What the parser refuses is read by its grammar up to this size: a string is one step there.
_MAX_BY_GRAMMAR: Final = 4 * 1024 * 1024
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")
_BLANK: Final = b" \t\r\n"
#: How a JSON text begins that is no object.
_OTHER_JSON: Final = tuple(bytes([byte]) for byte in b'["-0123456789tfn')
_UTF8: Final = re.compile(r'[^;]*;\s*charset=("?)(?:utf-?8|us-ascii)\1\s*;?\s*')


def scan(
    body: bytes, content_type: str | None, content_encoding: str | None = None
) -> EditableBody | None:
    """Return `body` as one that can be edited. The arguments are the values of its header lines.

    None: it has no parameters, so that nothing can be edited. It is empty, of a content type other
    than JSON and `multipart/form-data`, or JSON that is no object.

    Lets other greenlets run if the body is large.

    Raises ClientError `invalid_request`, which says what is wrong, for a body

    1. that is compressed, in another charset than UTF-8, or begins with a byte order mark;
    2. that is no valid JSON object, or has anything behind it;
    3. with a name twice, with two names that differ in case alone, with `model` in another case or
       any plain name spelled with escapes;
    4. whose `model` is no string;
    5. with more parts than any request has;
    6. that is a form written in another way than client libraries do.
    """
    media_type = (content_type or "").lower()
    kind = media_type.partition(";")[0].strip()
    form = kind == "multipart/form-data"
    if not body or not (form or is_json(kind) or not kind):
        return None
    if (content_encoding or "").strip().lower() not in ("", "identity"):
        raise _wrong("it must not be compressed (`Content-Encoding`)")
    if form:
        return EditableForm(body, content_type or "")
    if not in_utf8(media_type):
        raise _wrong("it must be in UTF-8 (`charset`)")
    if body.startswith(_BYTE_ORDER_MARKS):
        raise _wrong("it must not begin with a byte order mark")
    if body[:_AT_ONCE].lstrip(_BLANK).startswith(_OTHER_JSON):
        return None
    return EditableJSON(body, _members(body))


def in_utf8(content_type: str) -> bool:
    """Whether a content type, in lower case, names no charset but UTF-8."""
    return "charset" not in content_type or _UTF8.fullmatch(content_type) is not None


class EditableJSON:
    """The text of a JSON object that is known to be valid, with the spans of its members."""

    __slots__ = ("_document", "_members", "_spans", "_text", "model")

    def __init__(self, text: bytes, spans: list[Member]) -> None:
        """Raises ClientError: see :func:`scan`."""
        self._text = text
        self._spans = spans
        self._document: Mapping[str, Any] | None = None
        self._members: dict[str, Member] = {}
        folded: set[str] = set()
        for member in spans:
            name = _name_of(member)
            if name in self._members:
                raise ClientError(f"`{name[:100]}` is in the body twice.", param=name[:100])
            self._members[name] = member
            folded.add(name.casefold())
        if len(folded) < len(spans):
            raise ClientError("Two parameters in the body have names that differ in case alone.")
        if "model" in folded and "model" not in self._members:
            raise ClientError("`model` must be written in lower case.", param="model")
        #: The model that the client wrote.
        self.model: str | None = self._model()

    def _model(self) -> str | None:
        if "model" not in self._members:
            return None
        place = self._members["model"]
        short = place.end - place.value_start <= 6 * MAX_MODEL_LENGTH  # as if all were escaped
        model = self.value("model") if short else None
        if not isinstance(model, str) or not model.isprintable() or len(model) > MAX_MODEL_LENGTH:
            raise ClientError(
                f"`model` must be a string of {MAX_MODEL_LENGTH} printable characters at most.",
                param="model",
            )
        return model

    def value(self, name: str) -> Any:
        """The value of a top-level member; None when it is absent.

        Raises ClientError for one that is valid JSON but that no parser here can hold.

        Note: it is parsed at once, with each call. A value of many MiB holds the event loop.
        """
        member = self._members.get(name)
        if member is None:
            return None
        text = self._text[member.value_start : member.end]
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ClientError(f"`{name[:100]}` cannot be read.", param=name[:100]) from error

    def is_set(self, name: str) -> bool:
        """Whether the value of a top-level member is there, and not null."""
        member = self._members.get(name)
        # Of all values, only null begins with this letter.
        return member is not None and not self._text.startswith(b"n", member.value_start)

    def short(self, name: str) -> Any:
        """As :meth:`value`, but None for one of more than :data:`MAX_SHORT_BYTES`."""
        member = self._members.get(name)
        if member is None or member.end - member.value_start > MAX_SHORT_BYTES:
            return None
        return self.value(name)

    def document(self) -> Mapping[str, Any]:
        """The decoded body, the same object each time: it must not be changed.

        Strings of many KiB in it are a :class:`proxy.usage.json_text.LongString`. Lets other
        greenlets run if the body is large. Raises ClientError for what cannot be held, or not be
        written again.
        """
        if self._document is None:
            self._document = {name: self._decoded(name) for name in self._members}
        return self._document

    def _decoded(self, name: str) -> Any:
        member = self._members[name]
        try:
            return decoded_in_turns(self._text, member.value_start, member.end, long_strings=True)
        except ValueError as error:
            param = name[:100]
            raise ClientError(f"`{param}` cannot be read: {error}.", param=param) from error

    def edited(
        self,
        *,
        model: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        override: Mapping[str, Any] | None = None,
        drop: Set[str] = frozenset(),
        rename: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the text with these changes (:func:`proxy.providers.edits.plan`) spliced in.

        All other bytes stay. Without changes, it is the same object.
        """
        changes = plan(
            self._members,
            model=None if model == self.model else model,
            defaults=defaults,
            override=override,
            drop=drop,
            rename=rename,
        )
        text = self._text
        splices: list[Splice] = []
        kept: Member | None = None
        gap: int | None = None  # where members that are left out begin
        for name, member in self._members.items():
            if name in changes.removed:
                gap = member.start if gap is None else gap
                continue
            if gap is not None:
                splices.append(Splice(gap, member.start, b""))
                gap = None
            kept = member
            if name in changes.renamed:
                put = orjson.dumps(changes.renamed[name])
                splices.append(Splice(member.start, member.start + len(member.name), put))
            if name in changes.replaced:
                put = orjson.dumps(changes.replaced[name])
                splices.append(Splice(member.value_start, member.end, put))
        added = b",".join(
            orjson.dumps(name) + b":" + orjson.dumps(value) for name, value in changes.added.items()
        )
        if gap is not None:
            # The last ones, with the comma before them.
            begin = gap if kept is None else kept.end
            splices.append(Splice(begin, self._spans[-1].end, _after(kept, added)))
        elif added:
            end = text.index(b"{") + 1 if kept is None else kept.end
            splices.append(Splice(end, end, _after(kept, added)))
        return spliced(text, splices)


def _after(kept: Member | None, added: bytes) -> bytes:
    return b"," + added if added and kept is not None else added


def _name_of(member: Member) -> str:
    if b"\\" not in member.name:
        return member.name[1:-1].decode()
    name: str = json.loads(member.name)
    if name.isascii() and name.isidentifier():
        raise ClientError(f"`{name[:100]}` must be spelled without escapes.", param=name[:100])
    return name


def _members(body: bytes) -> list[Member]:
    """Return the members of the object. Raises ClientError: it is none."""
    try:
        if len(body) > _AT_ONCE or body.count(b"{") + body.count(b"[") > _BRACKETS_AT_ONCE:
            read = LargeObject(body, MAX_MEMBERS, MAX_BRACKETS)
            for _ in read.steps():
                turn_if_due()
            return read.members
        orjson.loads(body)
        members = top_members(body)
    except ValueError as error:
        # What the parser refuses and the grammar allows is for the upstream to judge.
        by_grammar = members_by_grammar(body) if len(body) <= _MAX_BY_GRAMMAR else None
        if by_grammar is None:
            raise _wrong(f"it must be a valid JSON object in UTF-8: {error}") from error
        members = by_grammar
    if len(members) > MAX_MEMBERS:
        raise _wrong("it has too many members")
    return members


def _wrong(what: str) -> ClientError:
    return ClientError(f"The body of this request must be read to find its model: {what}.")

"""A form that is held whole, edited in its text: its `model` is replaced, fields come and go."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.providers.edits import plan
from proxy.providers.multipart import Part, delimiter_of, form_parts, text_of
from proxy.usage.splice import Splice, spliced

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)


class EditableForm:
    """A `multipart/form-data` body. Each parameter is one field, or several of one name."""

    __slots__ = ("_body", "_delimiter", "_parts", "model")

    def __init__(self, body: bytes, content_type: str) -> None:
        """Raises ClientError: it is no form that all servers read in the same way.

        Lets other greenlets run if the body is large.
        """
        self._body = body
        self._delimiter = delimiter_of(content_type)
        self._parts: dict[str, list[Part]] = {}
        for part in form_parts(body, self._delimiter):
            self._parts.setdefault(part.base, []).append(part)
        folded = {name.casefold() for name in self._parts}
        if len(folded) < len(self._parts):
            raise ClientError("Two fields of this form have names that differ in case alone.")
        if "model" in folded and "model" not in self._parts:
            raise ClientError("`model` must be written in lower case.", param="model")
        #: The model that the client wrote.
        self.model: str | None = self._model()

    def _model(self) -> str | None:
        parts = self._parts.get("model", ())
        if len(parts) > 1 or any(part.name != "model" for part in parts):
            raise ClientError("`model` is in the form twice.", param="model")
        for part in parts:
            model = text_of(self._body, part)
            if not model.isprintable():
                raise ClientError("`model` must be printable text.", param="model")
            return model
        return None

    def value(self, name: str) -> Any:
        """The text of a field; None when it is absent, a file, or there several times."""
        parts = self._parts.get(name, ())
        if len(parts) != 1 or not parts[0].charset:
            return None
        return text_of(self._body, parts[0])

    def is_set(self, name: str) -> bool:
        """Whether a field is there, once, and is no file."""
        return self.value(name) is not None

    def short(self, name: str) -> Any:
        """As :meth:`value`: longer fields are refused."""
        return self.value(name)

    def document(self) -> Mapping[str, Any]:
        """Raises ClientError: a form is no JSON."""
        raise ClientError("The body of this request must be a JSON object, and no form.")

    def edited(
        self,
        *,
        model: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        override: Mapping[str, Any] | None = None,
        drop: Set[str] = frozenset(),
        rename: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the form with these changes (:func:`proxy.providers.edits.plan`) spliced in.

        Values other than strings are written as JSON. Lists and objects have no usual form as a
        field: they are left out. `rename` is for JSON: no form has such a parameter. All other
        bytes stay. Without changes, it is the same object.
        """
        changes = plan(
            self._parts,
            model=None if model == self.model else model,
            defaults=_flat(defaults),
            override=_flat(override),
            drop=drop,
        )
        splices: list[Splice] = []
        end = 0
        for name, parts in self._parts.items():
            end = max(end, parts[-1].end + 2)
            for number, part in enumerate(parts):
                # Of a field that is there several times, the first one gets the value.
                if name in changes.removed or (number and name in changes.replaced):
                    splices.append(Splice(part.start - len(self._delimiter) - 2, part.end + 2, b""))
                elif name in changes.replaced:
                    splices.append(self._replaced(part, changes.replaced[name]))
        added = b"".join(
            b"%b\r\n%b\r\n" % (self._delimiter, self._field(name, value))
            for name, value in changes.added.items()
        )
        splices.sort()
        if added:
            splices.append(Splice(end, end, added))
        return spliced(self._body, splices)

    def _replaced(self, part: Part, value: str) -> Splice:
        if part.charset == "utf-8" and part.name == part.base:
            return Splice(part.value_start, part.end, self._text(part.base, value))
        return Splice(part.start, part.end, self._field(part.base, value))

    def _field(self, name: str, value: str) -> bytes:
        if not _NAME.fullmatch(name):
            raise ClientError(f"`{name[:100]}` cannot be the name of a field.", param=name[:100])
        text = self._text(name, value)
        return b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (name.encode(), text)

    def _text(self, name: str, value: str) -> bytes:
        text = value.encode()
        if self._delimiter in text:
            raise ClientError(
                "The boundary of this form is in a value: choose another.", param=name
            )
        return text


def _flat(values: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what can be written as a field."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in (values or {}).items()
        if not isinstance(value, list | dict)
    }

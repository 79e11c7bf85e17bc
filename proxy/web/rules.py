"""The policy fields in bodies and answers of the management API.

The thing to get wrong: null in a body takes a rule away, and so goes to the store as None; it does
not mean that the field was not given.
"""

from collections.abc import Mapping
from typing import Any

from proxy.policy.fields import Place, fields_of


def names(place: Place) -> frozenset[str]:
    """The fields that a project, or a token, may be given."""
    return frozenset(fields_of(place))


def read(body: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The policy fields in ``body``, as the store takes them; None: to be removed.

    ClientError ``invalid_request``: what a field must be.
    """
    return {
        name: None if body[name] is None else field.read(name, body[name])
        for name, field in fields_of(place).items()
        if name in body
    }


def shown(policy: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """All policy fields as answers show them; null, or the default, where one is not set."""
    return {name: policy.get(name, field.default) for name, field in fields_of(place).items()}

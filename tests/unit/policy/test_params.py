"""Values of top-level parameters against their globs."""

from typing import Any

import pytest

from proxy.core.errors import ClientError
from proxy.policy.params import Params

PARAMS = Params(
    {
        "n": ["1", "2"],
        "temperature": ["0", "0.*"],
        "stream": ["false"],
        "user": ["team-*"],
        "tools": ["*"],
        "stop": [],
    }
)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"other": [1]},
        {"n": 1},
        {"n": "2"},
        {"n": 2.0},
        {"n": None},
        {"temperature": 0},
        {"temperature": 0.0},
        {"temperature": 0.75},
        {"temperature": -0.0},
        {"stream": False},
        {"user": "team-"},
        {"tools": [{"a": 1}]},
        {"tools": {"a": 1}},
        {"stop": None},
    ],
)
def test_allowed(values: dict[str, Any]) -> None:
    PARAMS.check(values)


@pytest.mark.parametrize(
    "values",
    [
        {"n": 3},
        {"n": 12},
        {"n": "1 "},
        {"n": True},
        {"n": [1]},
        {"n": {}},
        {"n": ""},
        {"n": 1.5},
        {"temperature": 1},
        {"temperature": -0.5},
        {"temperature": 1e-300},
        {"stream": True},
        {"stream": 0},
        {"user": "Team-a"},
        {"user": ["team-a"]},
        {"stop": ""},
        {"stop": []},
        {"stop": "x"},
    ],
)
def test_not_allowed(values: dict[str, Any]) -> None:
    with pytest.raises(ClientError) as caught:
        PARAMS.check(values)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "param_not_allowed", next(iter(values)))

"""Documents of a project and its tokens become one policy."""

import pytest

from proxy.policy.policy import Policy


@pytest.mark.parametrize(
    ("project", "drains"),
    [({}, False), ({"on_disconnect": "cancel"}, False), ({"on_disconnect": "drain"}, True)],
)
def test_the_project_says_what_happens_when_a_client_leaves(
    project: dict[str, object], drains: bool
) -> None:
    assert Policy.compile(project, [{"on_disconnect": "drain"}]).drain_on_disconnect is drains


@pytest.mark.parametrize(
    ("project", "injects"),
    [({}, False), ({"stream_usage": "off"}, False), ({"stream_usage": "inject"}, True)],
)
def test_the_project_says_whether_usage_is_asked_for(
    project: dict[str, object], injects: bool
) -> None:
    assert Policy.compile(project, [{"stream_usage": "inject"}]).inject_usage is injects

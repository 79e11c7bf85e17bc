"""A project's routing fields, compiled."""

from proxy.routing.access import routing_access


def test_a_project_that_sets_no_routing_field_has_no_access() -> None:
    assert routing_access({}) is None
    assert routing_access({"on_revoke": "cut", "providers": [], "breaker": "off"}) is None


def test_the_project_says_where_requests_go() -> None:
    project = {"base_url": "https://eu.test", "providers": ["a"], "max_retries": 2, "breaker": "on"}
    access = routing_access(project)
    assert access is not None
    assert access.own is not None
    assert (access.own.origin, access.providers) == ("public+https://eu.test", {"a"})
    assert (access.max_retries, access.breaker) == (2, True)
    assert access.allows("a")
    assert not access.allows("b")


def test_an_asterisk_allows_every_provider() -> None:
    access = routing_access({"providers": ["*"]})
    assert access is not None
    assert access.shared
    assert access.allows("any")
    assert (access.own, access.max_retries, access.breaker) == (None, 0, False)

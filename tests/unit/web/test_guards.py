"""The management guard: one of its tokens, compared as a whole."""

import hmac

import flask
import pytest

from proxy.core.errors import ClientError
from proxy.web import guards
from proxy.web.audit_trail import actors
from proxy.web.guards import ManagementGuard

OLD, NEW = "old-management-token", "new-management-token"


class Logins:
    """``asked`` and ``refused`` are addresses."""

    def __init__(self, refusal: ClientError | None = None) -> None:
        self.refusal = refusal
        self.asked: list[str] = []
        self.refused: list[str] = []

    def check_login(self, address: str) -> None:
        self.asked.append(address)
        if self.refusal is not None:
            raise self.refusal

    def count_login(self, address: str) -> None:
        self.refused.append(address)


def enter(
    tokens: tuple[str, ...],
    authorization: str | None,
    logins: Logins | None = None,
    trusted_proxies: int = 0,
    **headers: str,
) -> None:
    if authorization is not None:
        headers["Authorization"] = authorization
    environ = {"REMOTE_ADDR": "192.0.2.1"}
    with flask.Flask("test").test_request_context(
        "/manage/projects", headers=headers, environ_overrides=environ
    ):
        ManagementGuard(tokens, logins or Logins(), trusted_proxies)()


@pytest.mark.parametrize("token", [OLD, NEW])
def test_each_of_two_tokens_lets_in(token: str) -> None:
    enter((OLD, NEW), f"Bearer {token}")
    enter((OLD, NEW), f"bearer {token}")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        OLD,
        f"Basic {OLD}",
        f"Bearer {OLD}x",
        f"Bearer {OLD[:-1]}",
        f"Bearer {OLD},{NEW}",
        f"Bearer {OLD.upper()}",
        "Bearer ä",
    ],
)
def test_nothing_else_does(authorization: str | None) -> None:
    with pytest.raises(ClientError) as caught:
        enter((OLD, NEW), authorization)
    assert (caught.value.status, caught.value.code) == (401, "invalid_management_token")
    assert "management" in dict(caught.value.headers)["WWW-Authenticate"]


@pytest.mark.parametrize("given", [OLD, NEW, "wrong"])
def test_all_tokens_are_compared_in_constant_time(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    class Recording:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(guards, "hmac", Recording)
    try:
        enter((OLD, NEW), f"Bearer {given}")
    except ClientError:
        assert given == "wrong"
    assert compared == [(given.encode(), OLD.encode()), (given.encode(), NEW.encode())]


def test_only_refused_logins_are_counted_by_their_client() -> None:
    logins = Logins()
    enter((OLD,), f"Bearer {OLD}", logins)
    with pytest.raises(ClientError):
        enter((OLD,), "Bearer wrong", logins)
    with pytest.raises(ClientError):
        enter((OLD,), None, logins, 1, **{"X-Forwarded-For": "198.51.100.7, 203.0.113.9"})
    assert logins.asked == ["192.0.2.1", "192.0.2.1", "203.0.113.9"]
    assert logins.refused == ["192.0.2.1", "203.0.113.9"]


def test_beyond_the_limit_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "hmac", None)
    logins = Logins(ClientError(code="rate_limit_exceeded"))
    with pytest.raises(ClientError) as caught:
        enter((OLD,), f"Bearer {OLD}", logins)
    assert caught.value.code == "rate_limit_exceeded"
    assert logins.refused == []


def test_who_was_let_in_and_who_was_not() -> None:
    refused: list[str] = []
    guard = ManagementGuard((OLD, NEW), Logins(), 0, refused.append)
    seen = []
    for token in (OLD, NEW, "wrong"):
        headers = {"Authorization": f"Bearer {token}"}
        with flask.Flask("test").test_request_context("/manage/projects", headers=headers):
            try:
                guard()
            except ClientError:
                assert "actor" not in flask.g
            else:
                seen.append(flask.g.actor)
    assert seen == actors([OLD, NEW])
    assert refused == ["invalid_management_token"]

"""The order of the checks, and what is known of a request that one of them refuses."""

from proxy.auth.principal import Principal, TokenRefused
from proxy.errors import ClientError, ConnectFailed, ResponseBroken
from proxy.relay.watch import ClientGone
from tests.web.relaying import EVENT, PRINCIPAL, SSE, USAGE, Access, Answer, World, failing


class Refusing(Access):
    def authenticate(self, authorization: str | None) -> Principal:
        raise TokenRefused("token_expired", PRINCIPAL)


class UsedUp(Access):
    def admit(self, principal: Principal) -> None:
        raise ClientError(code="quota_exceeded")


def test_a_refused_token_is_told_in_the_event() -> None:
    world = World(access=Refusing())
    assert world.ask().code == 401
    assert (world.event.token_id, world.event.error_code) == (PRINCIPAL.token_id, "token_expired")
    assert not world.events.begun


def test_what_counts_comes_last() -> None:
    world = World(access=UsedUp())
    assert world.ask("GET", "/v1/a/../b").code == 400
    assert world.ask().code == 429
    assert not world.events.begun


def test_what_was_admitted_is_settled_once_whichever_way_it_ends() -> None:
    world = World()
    world.ask()
    assert world.access.settled == [21]
    world = World(Answer([EVENT, USAGE], headers=SSE))
    world.ask(stop_after=1)
    assert world.access.settled == [0], "the client left before the usage came"
    world = World(Answer([EVENT, USAGE, ResponseBroken()], headers=SSE))
    world.ask()
    assert world.access.settled == [3], "partly seen is used all the same"
    for failure in (ConnectFailed("away"), ZeroDivisionError(), ClientGone(), SystemExit()):
        world = failing(failure)
        world.ask()
        assert world.access.settled == [0]


def test_what_was_not_admitted_is_not_settled() -> None:
    for access in (Refusing(), UsedUp()):
        world = World(access=access)
        world.ask()
        world.ask("GET", "/v1/a/../b")
        assert access.settled == []

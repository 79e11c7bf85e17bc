"""The order of the checks, and what is known of a request that one of them refuses."""

from proxy.auth.principal import Principal, TokenRefused
from proxy.errors import ClientError
from tests.web.relaying import PRINCIPAL, Access, World


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

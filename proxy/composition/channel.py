"""By which workers tell each other what they changed: Redis, or nothing.

The thing to get wrong: importing the library where nobody needs it. It is 10 MB in each worker.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from proxy.auth.revocation import Revocation
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.auth.redis import ChangeChannel


class NoChannel:
    """Without Redis nobody else can be told at once."""

    def start(self) -> None: ...

    def publish(self, ids: Collection[str]) -> None: ...

    def close(self) -> None: ...


def change_channel(settings: Settings, revocation: Revocation) -> "ChangeChannel | NoChannel":
    if not settings.redis_url:
        return NoChannel()
    from proxy.auth.redis import ChangeChannel

    return ChangeChannel(settings.redis_url, revocation)

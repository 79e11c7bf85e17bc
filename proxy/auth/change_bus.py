"""Workers announce changes to each other through Redis, so that they take effect at once.

Redis keeps no published message, so a worker that was not subscribed misses it. That does no harm:
every worker polls the database as well, and polls at once when it is subscribed again.

Note: every client of that Redis may publish. So a message contains ids and nothing else,
its size is bounded, and many messages make one poll.
"""

import logging
import math
import random
import re
import time
from collections.abc import Collection
from typing import Any, Final, Protocol

import gevent
from redis import Redis, RedisError, ResponseError
from redis.client import PubSub

from proxy.providers.records import ROUTING_REVISION
from proxy.runtime.backoff import Backoff
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask
from proxy.runtime.redis import connection_options
from proxy.store.cache_purges import PURGES_REVISION

_log = logging.getLogger(__name__)

CHANNEL: Final = "proxy:changes"
#: Longer messages are not read. A worker sends far shorter ones.
MAX_BYTES: Final = 16 * 1024
#: A token's or project's UUID, or the name of a revision.
_ID: Final = re.compile(
    rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|"
    + b"|".join(name.encode() for name in (ROUTING_REVISION, PURGES_REVISION))
)
#: Ids in one message.
_BATCH: Final = 100
#: Ids that may wait to be sent, and that may wait to be handed to the listener.
_MAX_WAITING: Final = 1000
#: Seconds between two calls of the listener.
_MIN_INTERVAL: Final = 0.02
#: Seconds of silence after which Redis gets a PING, and in which it must respond.
_SILENCE: Final = 5.0
_SEND_TIMEOUT: Final = 1.0
#: Seconds after which a new subscription is made.
_RESUBSCRIBE_AFTER: Final = 60.0
_MIN_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 5.0


class Listener(Protocol):
    """Takes received ids, and whether the bus is subscribed. `on_message` may wait."""

    def on_message(self, ids: Collection[str]) -> None: ...

    def set_subscribed(self, listening: bool) -> None: ...


class ChangeBus:
    """Publishes and receives changed ids. One per worker; connects in :meth:`start`, not before."""

    def __init__(
        self,
        url: str,
        listener: Listener,
        *,
        channel: str = CHANNEL,
        silence: float = _SILENCE,
    ) -> None:
        self._listener = listener
        self._channel = channel
        self._silence = silence
        # Two clients, because sending must not wait for long. The server may have closed an idle
        # connection, and a message that is sent twice does no harm: so one retry.
        sending = connection_options(_SEND_TIMEOUT, _SEND_TIMEOUT, retries=1, url=url)
        self._sender: Redis = Redis.from_url(url, **sending)
        receiving = connection_options(silence, silence, url=url)
        self._receiver: Redis = Redis.from_url(url, **receiving)
        self._to_send: set[str] = set()
        self._received: set[str] = set()
        self._publishing = FailureLog(
            _log.log,
            "change bus",
            "changes are not announced through Redis",
            "changes are announced through Redis again",
        )
        self._subscribing = FailureLog(
            _log.log,
            "change bus",
            "changes are not received through Redis",
            "changes are received through Redis again",
        )
        self._backoff = Backoff(_MIN_PAUSE, _MAX_PAUSE)
        self._sending = PeriodicTask(
            self._send,
            lambda: _MIN_PAUSE if self._to_send else math.inf,
            failure="change bus: announcing changes failed",
            log=_log,
        )
        self._listening = PeriodicTask(
            self._subscribe,
            self._backoff.pause,
            failure="change bus: receiving changes failed",
            log=_log,
            first_pause=lambda: 0.0,
        )
        self._acting = PeriodicTask(
            self._act,
            lambda: math.inf,
            failure="change bus: received changes could not be applied",
            log=_log,
            min_pause=_MIN_INTERVAL,
        )

    def start(self) -> None:
        for task in (self._sending, self._listening, self._acting):
            task.start()

    def close(self) -> None:
        for task in (self._sending, self._listening, self._acting):
            task.kill()
        self._sender.close()
        self._receiver.close()

    def publish(self, ids: Collection[str]) -> None:
        """Announce these ids to the other workers. Neither waits nor raises.

        The other workers find a change that cannot be announced by polling.
        """
        if len(self._to_send) < _MAX_WAITING:
            self._to_send.update(ids)
        self._sending.wake()

    def _send(self) -> None:
        while self._to_send:
            batch = [self._to_send.pop() for _ in range(min(_BATCH, len(self._to_send)))]
            try:
                self._publish(" ".join(batch))
            except (RedisError, OSError) as error:
                self._publishing.failed(error)
            else:
                self._publishing.worked()

    def _publish(self, message: str) -> None:
        """Publish a message. Raises RedisError.

        A replica accepts a PUBLISH too, which only its own subscribers get. Then this connects to
        the address again and publishes once more.
        """
        self._sender.publish(self._channel, message)
        if self._leads_to_replica():
            self._sender.connection_pool.disconnect()
            self._sender.publish(self._channel, message)

    def _leads_to_replica(self) -> bool:
        try:
            # Every Redis user may send HELLO.
            reply: Any = self._sender.execute_command("HELLO")  # type: ignore[no-untyped-call]
        except ResponseError:
            return False  # before Redis 6
        facts = reply.values() if isinstance(reply, dict) else reply
        return b"replica" in facts or "replica" in facts

    def _subscribe(self) -> None:
        """Subscribe, and receive until the subscription ends."""
        began = time.monotonic()
        try:
            with self._receiver.pubsub() as subscription:  # type: ignore[no-untyped-call]
                subscription.subscribe(self._channel)
                self._listen(subscription)
        except (RedisError, OSError) as error:
            if self._subscribing.failed(error):
                self._listener.set_subscribed(False)
        except Exception:
            self._listener.set_subscribed(False)
            raise
        finally:
            if time.monotonic() - began > _MAX_PAUSE:
                # The subscription had worked, or took long to fail. A server that accepts each
                # connection and closes it at once is not asked ten times a second.
                self._backoff.reset()

    def _listen(self, subscription: PubSub) -> None:
        """Receive messages until the connection fails, or for about a minute.

        A new connection then leads to the server that has the address now: a server that was
        replaced would remain silent.
        """
        pinged = False
        seconds = _RESUBSCRIBE_AFTER * random.uniform(0.8, 1.2)  # noqa: S311  (no secret)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            message: Any = subscription.get_message(timeout=self._silence)
            if message is None:
                if pinged:
                    raise TimeoutError("it does not respond")
                subscription.ping()
                pinged = True
                continue
            pinged = False
            if message["type"] == "subscribe":
                self._subscribing.worked()
                self._listener.set_subscribed(True)
            elif message["type"] == "message" and len(self._received) < _MAX_WAITING:
                self._received.update(ids_in(message["data"]))
                if self._received:
                    self._acting.wake()
            # Reading never waits while messages are always there: let other greenlets run.
            gevent.sleep(0)

    def _act(self) -> None:
        received, self._received = self._received, set()
        self._listener.on_message(received)


def ids_in(message: bytes) -> list[str]:
    """Return the ids in a message, at most :data:`_BATCH`, without parts that are no id."""
    if len(message) > MAX_BYTES:
        return []
    return [part.decode() for part in message.split()[:_BATCH] if _ID.fullmatch(part)]

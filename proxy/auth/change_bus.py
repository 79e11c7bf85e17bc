"""Workers tell each other through Redis what they changed, so that it is felt at once.

Publish and subscribe: nothing is kept, so whoever was not listening missed it. That is no harm,
since every worker asks the database as well; and it asks at once when it listens again. The thing
to get wrong: everybody who may use that Redis may publish. A message says no more than "look at
these", it is bounded, and many messages are one look.
"""

import logging
import random
import re
import time
from collections.abc import Collection
from typing import Any, Final, Protocol

import gevent
from gevent.event import Event
from redis import Redis, RedisError, ResponseError
from redis.client import PubSub

from proxy.runtime.redis import connection_options

_log = logging.getLogger(__name__)

CHANNEL: Final = "proxy:changes"
#: Longer messages are not read; what we send is far shorter.
MOST_BYTES: Final = 16 * 1024
_ID: Final = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Ids in one message, and ids that wait to be sent or to be acted upon.
_BATCH: Final = 100
_MOST_WAITING: Final = 1000
#: Seconds between two times of acting upon what was heard.
_GAP: Final = 0.02
#: Seconds of silence after which Redis is asked whether it is there, and in which it must answer.
_SILENCE: Final = 5.0
_SEND_TIMEOUT: Final = 1.0
#: Seconds after which a subscription is made anew.
_FOLLOW_AGAIN: Final = 60.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class Listener(Protocol):
    """Who acts upon it. ``heard`` may wait."""

    def heard(self, ids: Collection[str]) -> None: ...

    def listens(self, listening: bool) -> None: ...


class ChangeBus:
    """One per worker. Nothing is connected before :meth:`start`."""

    def __init__(self, url: str, listener: Listener, *, silence: float = _SILENCE) -> None:
        self._listener = listener
        self._silence = silence
        # Two clients, for what is sent must not wait for long. A connection that was idle may have
        # been closed by the other side; saying the same twice does no harm.
        sending = connection_options(_SEND_TIMEOUT, _SEND_TIMEOUT, retries=1, url=url)
        self._sender: Redis = Redis.from_url(url, **sending)
        receiving = connection_options(silence, silence, url=url)
        self._receiver: Redis = Redis.from_url(url, **receiving)
        self._to_send: set[str] = set()
        self._heard: set[str] = set()
        self._send, self._act = Event(), Event()
        # Whether the last attempt at each failed, and the pause before the next one.
        self._publish_failing = self._subscribe_failing = False
        self._pause = _FIRST_PAUSE
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def start(self) -> None:
        runs = (self._run_sending, self._run_listening, self._run_acting)
        self._greenlets = [gevent.spawn(run) for run in runs]

    def close(self) -> None:
        greenlets, self._greenlets = self._greenlets, []
        gevent.killall(greenlets)
        self._sender.close()
        self._receiver.close()

    def publish(self, ids: Collection[str]) -> None:
        """Tell the others. Neither waits nor raises; what cannot be told is found by asking."""
        if len(self._to_send) < _MOST_WAITING:
            self._to_send.update(ids)
        self._send.set()

    def _run_sending(self) -> None:
        while True:
            self._send.wait()
            self._send.clear()
            while self._to_send:
                batch = [self._to_send.pop() for _ in range(min(_BATCH, len(self._to_send)))]
                try:
                    self._publish(" ".join(batch))
                except (RedisError, OSError) as error:
                    if not self._publish_failing:
                        _log.warning("changes cannot be announced through Redis: %s", error)
                    self._publish_failing = True
                except Exception:  # noqa: BLE001
                    # A defect of ours must not end it.
                    _log.exception("announcing changes through Redis failed")
                else:
                    self._publish_failing = False

    def _publish(self, message: str) -> None:
        """Raises RedisError. A replica takes a PUBLISH too, which only its own listeners hear: then
        the address is followed anew, and it is said once more."""
        self._sender.publish(CHANNEL, message)
        if self._leads_to_replica():
            self._sender.connection_pool.disconnect()
            self._sender.publish(CHANNEL, message)

    def _leads_to_replica(self) -> bool:
        try:
            # Every user may say it.
            said: Any = self._sender.execute_command("HELLO")  # type: ignore[no-untyped-call]
        except ResponseError:
            return False  # before Redis 6
        facts = said.values() if isinstance(said, dict) else said
        return b"replica" in facts or "replica" in facts

    def _run_listening(self) -> None:
        while True:
            began = time.monotonic()
            try:
                with self._receiver.pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.subscribe(CHANNEL)
                    self._listen(subscription)
            except (RedisError, OSError) as error:
                if not self._subscribe_failing:
                    _log.warning("changes are not heard through Redis: %s", error)
                    self._listener.listens(False)
                self._subscribe_failing = True
            except Exception:  # noqa: BLE001
                # A defect of ours must not end it.
                _log.exception("listening to Redis failed")
                self._listener.listens(False)
            if time.monotonic() - began > _LONGEST_PAUSE:
                # It had worked, or was long in failing. One that lets us in and throws us out again
                # is not asked ten times a second.
                self._pause = _FIRST_PAUSE
            gevent.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311  (no secret)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _listen(self, subscription: PubSub) -> None:
        """Until it fails, or for about a minute: a new connection follows the address, for a server
        that was replaced goes on to be silent."""
        asked = False
        until = time.monotonic() + _FOLLOW_AGAIN * random.uniform(0.8, 1.2)  # noqa: S311  (no secret)
        while time.monotonic() < until:
            message: Any = subscription.get_message(timeout=self._silence)
            if message is None:
                if asked:
                    raise TimeoutError("it does not answer")
                subscription.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "subscribe":
                if self._subscribe_failing:
                    _log.info("changes are heard through Redis again")
                self._subscribe_failing = False
                self._listener.listens(True)
            elif message["type"] == "message" and len(self._heard) < _MOST_WAITING:
                self._heard.update(ids_in(message["data"]))
                if self._heard:
                    self._act.set()
            # Where messages always are, reading them waits for nothing: the others get their turn.
            gevent.sleep(0)

    def _run_acting(self) -> None:
        while True:
            self._act.wait()
            self._act.clear()
            heard, self._heard = self._heard, set()
            try:
                self._listener.heard(heard)
            except Exception:  # noqa: BLE001
                _log.exception("what was heard through Redis could not be acted upon")
            gevent.sleep(_GAP)


def ids_in(message: bytes) -> list[str]:
    """The ids that a message names, :data:`_BATCH` at most; what is none is left out."""
    if len(message) > MOST_BYTES:
        return []
    return [part.decode() for part in message.split()[:_BATCH] if _ID.fullmatch(part)]

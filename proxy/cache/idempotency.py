"""Idempotency keys: a request is sent once, and its retries get the first result.

Each key of an access token has a record, which all workers see:

    none       no request with the key has been sent, or its result was dropped
    running    a worker sends the request: its claim, pinned, with a lease that it renews
    done       the result, for `IDEMPOTENCY_TTL`; it may be dropped earlier for want of room
    lost       the request was paid for, and its response is too large to be kept

The claim is there before the upstream is asked. It becomes the result, or is released where the
retry is to run: after a response that was cut, and after one that says so itself by its status. The
lease of a worker that was killed ends by itself. A second record, the mark, is there as long as the
claim and stays behind then: so the next attempt knows that the outcome of the one before is not.

A record is one byte for its state, the fingerprint of the request, then the rest: the number of the
attempt, or the encoded response. Only the attempt whose claim is still there can change it.
"""

import hashlib
import logging
import os
import re
from collections import Counter
from typing import Final

from proxy.cache.backends.base import Records
from proxy.cache.completeness import Rejection, body_verdict
from proxy.cache.entry import CachedResponse, EntryUnreadable
from proxy.cache.key import CacheKey
from proxy.core.errors import BackendError, ClientError
from proxy.core.media_type import is_event_stream
from proxy.runtime.periodic import PeriodicTask
from proxy.upstream.headers import content_of, is_plain

#: Seconds for which a claim holds; it is renewed every third of them.
LEASE_SECONDS: Final = 30.0
MAX_KEY_CHARS: Final = 255

#: What is counted: a first attempt; one after an attempt that was killed; a request that got the
#: response of a running one, or the first result; refusals for another request, and for one that is
#: running; results that could not be kept.
STATES: Final = (
    "new",
    "unknown_outcome",
    "joined",
    "replayed",
    "reused",
    "in_progress",
    "not_kept",
)

_RUNNING: Final = b"r"
_DONE: Final = b"d"
_LOST: Final = b"l"
_REST_AT: Final = 33
_ATTEMPT_BYTES: Final = 16

#: Statuses of responses that are about a moment, or about the proxy's own key, and cost nothing.
_PASSING: Final = frozenset({401, 402, 407, 408, 409, 425, 429})
#: Endpoints whose responses say whether they are complete.
_SAYS_ITS_END: Final = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}
)
#: The last event of a stream. A JSON text has no line of its own.
_LAST_EVENT: Final = re.compile(
    rb"^(?:data: ?\[DONE\]"
    rb"|event: ?(?:message_stop|response\.(?:completed|incomplete))"
    rb'|data: ?\{"type": ?"(?:message_stop|response\.(?:completed|incomplete))")',
    re.MULTILINE,
)
_QUOTED: Final = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])+)"')
_BARE: Final = re.compile(r"[!#-~][!-~]*")
_ESCAPED: Final = re.compile(r"\\(.)")

_log = logging.getLogger(__name__)


def key_of(value: str) -> str:
    """Return the key in the value of an `Idempotency-Key`: bare, or a string of RFC 8941 §3.3.3.

    Raises ClientError ``invalid_idempotency_key``.
    """
    quoted = _QUOTED.fullmatch(value)
    key = _ESCAPED.sub(r"\1", quoted[1]) if quoted else value
    if (quoted or _BARE.fullmatch(value)) and len(key) <= MAX_KEY_CHARS:
        return key
    raise ClientError(code="invalid_idempotency_key")


def is_final(status: int) -> bool:
    """Whether retries get the response with this status. Otherwise the next one is sent again."""
    return 200 <= status < 300 or (400 <= status < 500 and status not in _PASSING)


def is_cut(response: CachedResponse) -> bool:
    """Whether a response that came whole, as far as HTTP can tell, is none: a stream without its
    last event, or an error under a status of success.

    Lets other greenlets run if the body is large.
    """
    path = response.target.partition("?")[0]
    if response.status >= 300 or path not in _SAYS_ITS_END:
        return False
    content_type, content_encoding = content_of(response.headers)
    body = response.body
    verdict = body_verdict(response.status, content_type, content_encoding, path, body)
    if verdict is not Rejection.INCOMPLETE:
        return verdict is Rejection.ERROR
    # Of other ends than the best one, the client decides: they were paid for.
    return (
        is_event_stream(content_type)
        and is_plain(content_encoding)
        and _LAST_EVENT.search(body) is None
    )


class Idempotency:
    """The idempotency keys that the requests of one worker have.

    `ttl` is the seconds for which a result is kept.
    """

    def __init__(
        self, records: Records, *, ttl: float, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self.records = records
        self.ttl = ttl
        self.lease_seconds = lease_seconds
        #: See :data:`STATES`.
        self.states: Counter[str] = Counter(dict.fromkeys(STATES, 0))
        self._running: dict[KeyedRequest, None] = {}
        self._renewal = PeriodicTask(
            self.renew,
            lambda: self.lease_seconds / 3 if self._running else None,
            failure="idempotency: the claims could not be renewed",
            log=_log,
        )

    def request(
        self, project_id: str, token_id: str, key: str, fingerprint: bytes
    ) -> "KeyedRequest":
        """Return the request of an access token. Nothing is asked yet.

        `fingerprint`: 32 bytes, of all that decides the response.
        """
        named = hashlib.sha256("\0".join((project_id, token_id, key)).encode()).hexdigest()
        return KeyedRequest(self, project_id, named, fingerprint)

    def close(self) -> None:
        self._renewal.kill()

    def renew(self) -> None:
        """Renew the claims of this worker."""
        for each in list(self._running):
            try:
                each.renew()
            except BackendError as error:
                # The lease has time for two more tries.
                _log.warning("idempotency: a claim was not renewed: %s", error)

    def register(self, request: "KeyedRequest") -> None:
        self._running[request] = None
        self._renewal.start()

    def unregister(self, request: "KeyedRequest") -> None:
        self._running.pop(request, None)


class KeyedRequest:
    """One request with an idempotency key.

    The order of calls is :meth:`find`, :meth:`begin`, then, if that returned True or raised,
    :meth:`end`. They wait for the store. All raise BackendError when it does not respond: what
    cannot be claimed must not be sent.
    """

    __slots__ = (
        "_claim",
        "_fingerprint",
        "_mark",
        "_name",
        "_owner",
        "flight_key",
        "is_done",
        "is_running",
        "is_too_large",
        "result",
    )

    def __init__(self, owner: Idempotency, project_id: str, named: str, fingerprint: bytes) -> None:
        self._owner = owner
        self._name = f"idempotency:{named}"
        self._mark = f"idempotency-sent:{named}"
        self._fingerprint = fingerprint
        digest = hashlib.sha256(b"flight" + named.encode() + fingerprint).digest()
        #: Under which its flight is found, by requests with the same key and fingerprint.
        self.flight_key = CacheKey(project_id, digest)
        #: What :meth:`find` has found: a claim, which may be another worker's; the first result.
        self.is_running = self.is_done = False
        #: The response, once it is here; or the knowledge that it is too large.
        self.result: CachedResponse | None = None
        self.is_too_large = False
        self._claim: bytes | None = None

    @property
    def lifetime(self) -> float:
        """Seconds for which the result is kept."""
        return self._owner.ttl

    def count(self, state: str) -> None:
        """Count what came of the key, see :data:`STATES`."""
        self._owner.states[state] += 1

    def find(self) -> CachedResponse | None:
        """Return the first result, if it is there.

        Raises ClientError ``idempotency_key_reused`` where the key came with another request, or
        its result is lost.
        """
        owner, self.is_running = self._owner, False
        record = owner.records.get_record(self._name)
        if record is None:
            return None
        state, rest = record[:1], record[_REST_AT:]
        if record[1:_REST_AT] != self._fingerprint:
            self.count("reused")
            raise ClientError(code="idempotency_key_reused")
        if state == _LOST:
            self.count("reused")
            raise ClientError(
                "The response to the first request with this `Idempotency-Key` was too large to "
                "be kept. Send a new key to ask, and pay, again.",
                code="idempotency_key_reused",
            )
        if state == _RUNNING:
            self.is_running = True
            return None
        try:
            result = CachedResponse.decode(rest)
            self.is_done = True
            return result
        except EntryUnreadable:  # of another version
            owner.records.delete_record(self._name, expected=record)
            return None

    def begin(self) -> bool:
        """Claim the key, so that the request may be sent. Returns False if that is taken."""
        owner = self._owner
        records = owner.records
        # Set before it is there: an attempt that is interrupted meanwhile releases it, too.
        self._claim = claim = _RUNNING + self._fingerprint + os.urandom(_ATTEMPT_BYTES)
        if records.claim(self._name, claim, owner.lease_seconds) is not None:
            self._claim = None
            return False
        owner.register(self)
        was_sent = records.get_record(self._mark) is not None
        records.put_record(self._mark, b"sent", owner.ttl)
        self.count("unknown_outcome" if was_sent else "new")
        return True

    def renew(self) -> None:
        """Begin the lease anew."""
        claim, owner = self._claim, self._owner
        if claim is not None:
            owner.records.put_record(
                self._name, claim, owner.lease_seconds, expected=claim, pinned=True
            )

    def will_be_kept(self) -> bool:
        """Whether retries get :attr:`result`, or are told that it is lost."""
        return self.is_too_large or (self.result is not None and not is_cut(self.result))

    def end(self, kept: bool) -> None:
        """Turn the claim into the result; with `kept` False release it. Idempotent."""
        claim, self._claim = self._claim, None
        if claim is None:
            return
        owner = self._owner
        owner.unregister(self)
        try:
            if kept:
                self._store_result(claim)
                owner.records.delete_record(self._mark)
            else:
                # The mark first: the next attempt may begin at once.
                owner.records.delete_record(self._mark)
                owner.records.delete_record(self._name, expected=claim)
        except BackendError as error:
            # Its lease ends by itself.
            self.count("not_kept")
            _log.warning("idempotency: a result was not kept: %s", error)

    def take_for_result(self, response: CachedResponse) -> None:
        """Make a response that cost nothing the first result, unless there is one.

        Does not raise.
        """
        try:
            if self.begin():
                self.result = response
        except BackendError as error:
            _log.warning("idempotency: a result was not kept: %s", error)
        self.end(self.result is not None)

    def _store_result(self, claim: bytes) -> None:
        owner = self._owner
        records, lost = owner.records, _LOST + self._fingerprint
        if self.result is None or self.is_too_large:
            self.count("not_kept")
            records.put_record(self._name, lost, owner.ttl, expected=claim)
            return
        value = _DONE + self._fingerprint + self.result.encode()
        if (
            records.put_record(self._name, value, owner.ttl, expected=claim)
            and records.get_record(self._name) is None
        ):
            # The store itself has less room.
            self.count("not_kept")
            records.put_record(self._name, lost, owner.ttl)

"""Counters of access tokens: permits, requests, LLM tokens and hits of the response cache.

Nothing here touches ``updated_at``: the poll for revocations and changes reads that column, and
counting would flood it.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from proxy.store.database import Database, Session
from proxy.store.grants import MAX_ANCESTORS
from proxy.store.rows import to_micros

#: So many last permits of a token are leased one by one.
ONE_BY_ONE: Final = 100
#: Permits of one block before that.
MAX_LEASED: Final = 50

#: Two nodes may report out of order: the later time stays.
_USED: Final = (
    "last_used_at = CASE WHEN last_used_at IS NULL OR last_used_at < ? THEN ? ELSE last_used_at END"
)
#: Ids in one query.
_PAGE: Final = 500


class Account(NamedTuple):
    """What an access token has counted, and what the ledger has of it.

    `tokens_accounted` holds what the tokens minted from it have used as well. `requests_accounted`
    is 0 for a token with `max_requests`, whose requests are counted before they are sent; else
    errors and cache hits are left out, since neither a refusal nor a hit is a request of the
    token's. An error from the cache is left out twice: the count may stay too low, never too high.
    """

    tokens_used: int
    tokens_accounted: int
    requests: int
    requests_accounted: int
    hits: int = 0
    hits_accounted: int = 0


class Counters:
    """Reads and adds to the counters. Times are aware datetimes.

    All methods raise StoreError when the database does not respond.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease_permits(self, token_id: str, now: datetime) -> int:
        """Counts a block of requests against ``max_requests``. Returns its size; 0 means used up.

        The row is locked meanwhile, so any number of nodes together admit exactly the maximum.
        """
        used = to_micros(now)

        def work(session: Session) -> int:
            remaining = _remaining(session, token_id, session.dialect.for_update)
            if not remaining:
                return 0
            block = min(MAX_LEASED, max(1, (remaining - ONE_BY_ONE) // 8))
            session.execute(
                f"UPDATE tokens SET request_count = request_count + ?, {_USED} WHERE id = ?",  # noqa: S608
                (block, used, used, token_id),
            )
            return block

        return self._database.run(work)

    def permits_left(self, token_id: str) -> int:
        """Returns how many requests of ``max_requests`` are not counted yet."""
        return self._database.run(lambda session: _remaining(session, token_id), readonly=True)

    def return_permits(self, permits: Mapping[str, int]) -> None:
        """Uncounts leased permits that were not used.

        Must not be retried after an error: it may have been executed.
        """

        def work(session: Session) -> None:
            for token_id, count in sorted(permits.items()):
                session.execute(
                    "UPDATE tokens SET request_count = request_count - ? WHERE id = ?",
                    (count, token_id),
                )

        self._database.run(work)

    def add_counts(self, entries: Sequence[tuple[str, int, int, int, datetime]]) -> None:
        """Adds (token id, requests, LLM tokens, cache hits, last used at) in one transaction.
        Unknown ids are ignored."""
        sums: dict[str, tuple[int, int, int, int]] = {}
        for token_id, requests, tokens, hits, last_used_at in entries:
            known, spent, hit, latest = sums.get(token_id, (0, 0, 0, 0))
            moment = max(latest, to_micros(last_used_at))
            sums[token_id] = (known + requests, spent + tokens, hit + hits, moment)
        if not sums:
            return

        def work(session: Session) -> None:
            # The same order everywhere: two nodes that flush the same tokens must not deadlock.
            for token_id, (requests, tokens, hits, used) in sorted(sums.items()):
                session.execute(
                    "UPDATE tokens SET request_count = request_count + ?, "  # noqa: S608
                    "tokens_used = tokens_used + ?, cache_hit_count = cache_hit_count + ?, "
                    f"{_USED} WHERE id = ?",
                    (requests, tokens, hits, used, used, token_id),
                )

        self._database.run(work)

    def tokens_used(self, token_ids: Collection[str]) -> dict[str, int]:
        """Maps each token id that exists to the LLM tokens that it has used so far."""
        ids = list(token_ids)

        def work(session: Session) -> dict[str, int]:
            found: dict[str, int] = {}
            for start in range(0, len(ids), _PAGE):
                page = ids[start : start + _PAGE]
                marks = ", ".join("?" * len(page))
                rows = session.all(
                    f"SELECT id, tokens_used FROM tokens WHERE id IN ({marks})",  # noqa: S608
                    page,
                )
                found.update((str(row[0]), int(row[1])) for row in rows)
            return found

        return self._database.run(work, readonly=True) if ids else {}

    def accounted(self, token_ids: Collection[str]) -> dict[str, Account]:
        """Maps each token id to its counts and the ledger's. The ledger's are less if hours of it
        were deleted."""
        ids = list(token_ids)[:_PAGE]
        marks = ", ".join("?" * len(ids))

        def work(session: Session) -> dict[str, Account]:
            ledger = {
                str(row[0]): (int(row[1]), int(row[2]), int(row[3]))
                for row in session.all(
                    "SELECT t.id, SUM(u.prompt_tokens + u.completion_tokens "  # noqa: S608
                    "+ u.estimated_prompt_tokens + u.estimated_completion_tokens), "
                    "SUM(u.requests - u.errors - u.cache_hits), SUM(u.cache_hits) FROM tokens t "
                    "JOIN usage_hourly u ON u.project_id = t.project_id AND u.token_id = t.id "
                    f"WHERE t.id IN ({marks}) GROUP BY t.id",
                    ids,
                )
            }
            children: dict[str, int] = dict(
                session.all(
                    "SELECT parent_id, SUM(tokens_used) FROM tokens "  # noqa: S608
                    f"WHERE parent_id IN ({marks}) GROUP BY parent_id",
                    ids,
                )
            )
            rows = session.all(
                "SELECT id, tokens_used, request_count, cache_hit_count, "  # noqa: S608
                f"max_requests FROM tokens WHERE id IN ({marks})",
                ids,
            )
            found = {}
            for token_id, used, requests, hits, max_requests in rows:
                tokens, served, hit = ledger.get(token_id, (0, 0, 0))
                found[str(token_id)] = Account(
                    tokens_used=int(used),
                    tokens_accounted=tokens + int(children.get(token_id, 0)),
                    requests=int(requests),
                    requests_accounted=served if max_requests is None else 0,
                    hits=int(hits),
                    hits_accounted=hit,
                )
            return found

        return self._database.run(work, readonly=True) if ids else {}

    def make_good(self, token_id: str, account: Account) -> bool:
        """Raises the token's counts to the ledger's where they are lower. The LLM tokens that were
        missing are charged to its ancestors as well.

        Returns False, and changes nothing, if the counts are no longer those of ``account``.
        """
        missing = max(0, account.tokens_accounted - account.tokens_used)
        requests = max(account.requests, account.requests_accounted)
        hits = max(account.hits, account.hits_accounted)

        def work(session: Session) -> bool:
            changed = session.execute(
                "UPDATE tokens SET tokens_used = tokens_used + ?, request_count = ?, "
                "cache_hit_count = ? WHERE id = ? AND tokens_used = ? AND request_count = ? "
                "AND cache_hit_count = ?",
                (
                    *(missing, requests, hits, token_id),
                    *(account.tokens_used, account.requests, account.hits),
                ),
            )
            if changed != 1:
                return False
            parent = session.one("SELECT parent_id FROM tokens WHERE id = ?", (token_id,))
            if missing and parent is not None and parent[0] is not None:
                charge(session, {parent[0]: missing})
            return True

        return self._database.run(work)


def _remaining(session: Session, token_id: str, for_update: str = "") -> int:
    """Return how many requests of ``max_requests`` are not counted yet: 0 for an unknown token, and
    :data:`ONE_BY_ONE` for one without a maximum."""
    query = "SELECT max_requests, request_count FROM tokens WHERE id = ?"
    row = session.one(query + for_update, (token_id,))
    if row is None:
        return 0
    return ONE_BY_ONE if row[0] is None else max(0, int(row[0]) - int(row[1]))


def charge(session: Session, spent: Mapping[str, int]) -> None:
    """Adds LLM tokens (``spent``: token id → how many) to each token and all its ancestors."""
    sums: dict[str, int] = {}
    for token_id, tokens in spent.items():
        account: str | None = token_id
        for _ in range(1 + MAX_ANCESTORS):
            if account is None:
                break
            sums[account] = sums.get(account, 0) + tokens
            row = session.one("SELECT parent_id FROM tokens WHERE id = ?", (account,))
            account = None if row is None else row[0]
    for token_id, tokens in sorted(sums.items()):
        session.execute(
            "UPDATE tokens SET tokens_used = tokens_used + ? WHERE id = ?", (tokens, token_id)
        )

"""Revisions: when that which one name stands for changed last, for what is read as a whole."""

from proxy.store.database import Session


def bump(session: Session, name: str) -> int:
    """Give the revision `name` a new time, and lock it until the transaction ends.

    Call it first in a unit of work: such units then run one after the other, over all nodes.
    Returns the time, in microseconds: later than that of the bump before, whatever the clock says.
    """
    query = "SELECT updated_at FROM revisions WHERE name = ?"
    row = session.one(query + session.dialect.for_update, (name,))
    now = session.now()
    if row is None:
        session.execute("INSERT INTO revisions (name, updated_at) VALUES (?, ?)", (name, now))
        return now
    moment = max(now, int(row[0]) + 1)
    session.execute("UPDATE revisions SET updated_at = ? WHERE name = ?", (moment, name))
    return moment

"""``manage.py audit``: shows the audit log, and verifies that it is whole.

``list`` and ``show`` go through the management API. ``verify`` reads the database itself, because a
server that may have been tampered with cannot vouch for itself.
"""

import re
import sys
from contextlib import closing
from typing import Any

import click

from proxy.cli import output
from proxy.cli.client import Api, management_command, segment
from proxy.cli.local_settings import load_settings, open_database
from proxy.store import audit_chain
from proxy.store.audit import ACTIONS
from proxy.store.migrate import check_schema

_COLUMNS = {
    "created_at": "Time",
    "action": "Action",
    "outcome": "Outcome",
    "actor": "Actor",
    "subject_id": "Token or project",
    "client_ip": "Address",
    "id": "ID",
}
_LINK = re.compile(r"(\d{1,18}):([0-9a-f]{64})", re.ASCII)


class _LinkType(click.ParamType[audit_chain.Link]):
    name = "SEQ:HASH"

    def convert(self, value: Any, param: Any, ctx: Any) -> audit_chain.Link:
        match = _LINK.fullmatch(value)
        if match is None:
            self.fail("expected SEQ:HASH, as `audit verify` prints the head", param, ctx)
        return audit_chain.Link(int(match[1]), match[2])


@click.group()
def audit() -> None:
    """The audit log: who changed what, and who was refused."""


@audit.command("list")
@click.option(
    "--action", type=click.Choice(ACTIONS), metavar="ACTION", help="Such as token.revoke."
)
@click.option("--actor", help="Such as management:1f2e; management or token: all of these.")
@click.option("--project-id", help="About this project and its tokens only.")
@click.option("--token-id", help="About this access token only.")
@click.option("--outcome", help="success, denied or failure.")
@click.option("--client-ip", help="From this address only.")
@click.option("--request-id", help="Of this request only.")
@click.option("--search", metavar="TEXT", help="With this text in actor, action or details.")
@click.option("--start-time", metavar="TIME", help="A date or an RFC 3339 time.")
@click.option("--end-time", metavar="TIME", help="The same; not included.")
@click.option("--page", type=click.IntRange(min=1), help="[default: 1]")
@click.option("--page-size", type=click.IntRange(1, 200), help="[default: 50]")
@management_command
@output.json_option
def list_entries(api: Api, json_wanted: bool, **chosen: str | int | None) -> None:
    """Entries, newest first, a page of them."""
    query = {name: str(value) for name, value in chosen.items() if value is not None}
    found = api.call("GET", "/manage/audit", **query)
    if json_wanted:
        output.as_json(found)
        return
    rows = [
        {**item, "subject_id": item["token_id"] or item["project_id"]} for item in found["events"]
    ]
    output.table(rows, _COLUMNS)
    pages = found["pagination"]
    total = pages["total_items"]
    where = f"Page {pages['page']} of {pages['total_pages']}, {total} entries."
    click.echo(where if total else "No entries.", err=True)


@audit.command()
@click.argument("entry_id")
@management_command
@output.json_option
def show(api: Api, entry_id: str, json_wanted: bool) -> None:
    """One entry with its details, by its id."""
    found = api.call("GET", f"/manage/audit/{segment(entry_id)}")
    output.as_json(found) if json_wanted else output.record(found)


@audit.command(short_help="Whether entries were changed, removed, added or moved.")
@click.option(
    "--expect",
    "expected",
    type=_LinkType(),
    help="A head that was noted earlier: it must still be in the chain.",
)
@output.json_option
def verify(expected: audit_chain.Link | None, json_wanted: bool) -> None:
    """Look for entries that were changed, removed, added or moved in the database.

    Prints the chain's head. Keep it out of reach of everyone with write access to the database, and
    compare it with --expect next time: nothing else detects that the whole chain was rewritten.
    Exit code 1 when the chain is broken; the first faulty row is named.
    """
    with closing(open_database(load_settings())) as database:
        check_schema(database)
        verdict = audit_chain.verify(database, expected)
    head, anchor = verdict.ends
    broken = verdict.broken
    if json_wanted:
        output.as_json(
            {
                "intact": broken is None,
                "checked": verdict.checked,
                "head": head._asdict(),
                "deleted_up_to": anchor._asdict(),
                "broken": broken and broken._asdict(),
            }
        )
    elif broken is None:
        click.echo(f"{verdict.checked} entries, the chain is whole. Head: {head.seq}:{head.hash}")
    else:
        which = f"row {broken.seq}" + (f" ({broken.id})" if broken.id else "")
        click.echo(f"The chain is broken at {which}: {broken.problem}.", err=True)
    sys.exit(1 if broken else 0)

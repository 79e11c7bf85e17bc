"""The Dockerfile, as far as it can be judged without an engine that builds it."""

import re
from typing import Final

from tests.support.paths import ROOT

TEXT: Final = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
#: Who is there before anybody is added, in every image that Debian is under (base-passwd).
DEBIAN_HAS: Final = re.compile(
    "root|daemon|bin|sys|sync|games|man|lp|mail|news|uucp|proxy|www-data|backup|list|irc|nobody|_apt"
)


def test_its_user_is_made_there_and_owns_the_data() -> None:
    ((number, user),) = re.findall(r"useradd --uid (\d+) .*?(\S+)$", TEXT, re.MULTILINE)
    assert not DEBIAN_HAS.fullmatch(user)
    assert re.findall(r"^USER (\S+)$", TEXT, re.MULTILINE) == [number]
    assert set(re.findall(r"--(?:owner|group)=(\S+)", TEXT)) == {user}


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    names = {name for line in copied for name in line.split()}
    assert names == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in names)


def test_images_and_actions_are_named_by_what_they_hold() -> None:
    """A tag can be moved, a digest or a commit cannot."""
    images = re.findall(r"^FROM (?:--\S+ )?(\S+)", TEXT, re.MULTILINE)
    actions: list[str] = []
    for path in (ROOT / ".github" / "workflows").glob("*.y*ml"):
        workflow = path.read_text()
        images += re.findall(r"^\s*(?:- )?image: (\S+)", workflow, re.MULTILINE)
        images += re.findall(r"^\s*container: (?!\$)(\S+)", workflow, re.MULTILINE)
        actions += re.findall(r"^\s*(?:- )?uses: (\S+)", workflow, re.MULTILINE)
    assert len(images) > 3
    assert actions
    assert [name for name in images if not re.search(r"@sha256:[0-9a-f]{64}$", name)] == []
    assert [name for name in actions if not re.search(r"@[0-9a-f]{40}$", name)] == []

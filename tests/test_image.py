"""The Dockerfile, as far as it can be judged without an engine that builds it."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
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

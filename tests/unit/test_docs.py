"""README.md and docs/: links lead somewhere; commands, options, settings and targets exist.

The thing to get wrong: what a page does not write as code or as a link is not looked at here.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import click
import pytest

from proxy.cli import COMMANDS, root
from proxy.policy.fields import FIELDS
from proxy.settings.settings import variable_names, variables
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]

#: Not settings: variables of boto3, the SDKs, the bench and an example, and names of the C library
#: and of SQL.
FOREIGN: Final = re.compile(
    r"ANTHROPIC_\w+|AWS_\w+|BENCH_\w+|OPENAI_BASE_URL|RUN_ID|CLOCK_BOOTTIME|FROM_UNIXTIME"
)
#: Of `make bench`.
BENCH: Final = "--quick"
_NAME: Final = r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+"


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"`[^`\n]*`", "code", "".join(_prose(page)))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / unquote(path)).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), target


def test_no_page_is_linked_twice_in_the_list_of_the_readme() -> None:
    listed = re.findall(r"^- \[.*?\]\((.*?)\)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(listed) > 10
    assert len(listed) == len(set(listed))


def test_commands_and_their_options_exist(page: Path) -> None:
    for line in _command_lines(page):
        for words in _spelled_out(line):
            _check(words, line)


def test_options_that_stand_alone_exist(page: Path) -> None:
    """In a sentence or a table: of some command of ours."""
    ours = {option for command in _every(root) for option in _options(command)}
    for code in _inline(page):
        if code.startswith("--"):
            # Not `--no-…`, which stands for several.
            spelled = re.findall(r"--[a-z][a-z-]*(?!…)\b(?!-)", code)
            assert ours.issuperset(set(spelled) - {BENCH}), code


def test_settings_exist(page: Path) -> None:
    known = variable_names()
    clients = (ROOT / "docs" / "configuration.md").read_text().partition("## Command line")[2]
    known |= set(re.findall(rf"^\| `({_NAME})`", clients, re.MULTILINE))
    named = {name for code in _inline(page) for name in re.findall(rf"^{_NAME}\b", code)}
    for block in _blocks(page):
        named |= set(re.findall(rf"^(?:export )?({_NAME})=", block, re.MULTILINE))
    named = {name for name in named if not FOREIGN.fullmatch(name)}
    assert named <= known


def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    codes = [*_inline(page), *(line for block in _blocks(page) for line in block.splitlines())]
    assert targets.issuperset(
        name for code in codes for name in re.findall(r"^make ([a-z]+)", code)
    )


def _parts(page: Path) -> Iterator[tuple[bool, str]]:
    """(Whether it is a fenced block, its text), in turns."""
    for at, part in enumerate(re.split(r"^ *```.*\n", page.read_text(), flags=re.MULTILINE)):
        yield at % 2 == 1, part


def _prose(page: Path) -> list[str]:
    return [part for fenced, part in _parts(page) if not fenced]


def _blocks(page: Path) -> list[str]:
    """Fenced, a command on one line."""
    return [part.replace("\\\n", " ") for fenced, part in _parts(page) if fenced]


def _inline(page: Path) -> list[str]:
    text = "".join(_prose(page)).replace("\\|", "|")
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


@cache
def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ (.*)", "".join(_prose(page)), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        again = (f"{slug}-{n}" for n in range(1, 100))
        anchors.add(slug if slug not in anchors else next(s for s in again if s not in anchors))
    return anchors


def _command_lines(page: Path) -> list[str]:
    """What follows ``manage.py`` to the end of the command; ``group command`` without it, too."""
    codes = _inline(page)
    lines = [line for block in _blocks(page) for line in block.splitlines()]
    found = [m for text in (*codes, *lines) for m in re.findall(r"manage\.py ([a-z].*)", text)]
    for code in codes:
        first, _, rest = code.partition(" ")
        command = root.get_command(click.Context(root), first)
        if (isinstance(command, click.Group) and re.match("[a-z]", rest)) or (
            command is not None and rest.startswith(("-", "[-"))
        ):
            found.append(code)
    # Up to what belongs to the shell: a pipe, another command, a comment.
    found = [re.sub(r'"[^"]*"', "QUOTED", line) for line in found]
    return [re.split(r" \|| ;|; |\)| #| > | && ", line)[0] for line in found]


def _spelled_out(line: str) -> list[list[str]]:
    """``token mint|update --x`` is two commands."""
    first, *rest = line.split()
    if rest and re.fullmatch(r"[a-z]+(\|[a-z]+)+", rest[0]):
        return [[first, each, *rest[1:]] for each in rest[0].split("|")]
    return [[first, *rest]]


def _check(words: list[str], line: str) -> None:
    assert words[0] in COMMANDS, line
    command = root.get_command(click.Context(root), words[0])
    assert command is not None
    if isinstance(command, click.Group):
        if len(words) == 1 or not re.fullmatch(r"[a-z]+", words[1]):
            return
        command = command.commands.get(words[1])
        assert command is not None, line
    spelled = re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(words))
    assert _options(command).issuperset(spelled), line


def _every(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _every(child)


def _options(command: click.Command) -> set[str]:
    return {"--help", "--version"} | {
        spelling for each in command.params for spelling in (*each.opts, *each.secondary_opts)
    }


def test_the_security_page_knows_every_limit() -> None:
    """A page that names what exists cannot deny it."""
    text = (ROOT / "docs" / "security.md").read_text()
    limits = [variable.name for variable in variables()]
    limits = [name for name in limits if name.startswith("RATE_LIMIT_")]
    assert len(limits) >= 5
    fields = ["max_requests"] + [
        name for name in FIELDS if name.startswith(("rate_limit_", "max_"))
    ]
    assert len(fields) >= 4
    missing = [name for name in [*limits, *fields] if f"`{name}`" not in text]
    assert not missing
    assert not re.search(r"\bno (rate )?limit\b", text)

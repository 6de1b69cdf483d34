"""What the documents say about commands, options, settings, files and each other is true."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from service.cli import main
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "deploy" / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
)
SAMPLE = "01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
FILES = ("secret.txt", "body.json", "headers.txt")
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def in_blocks(text: str) -> Iterator[str]:
    """Each line of the code blocks, fenced or indented."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip().removeprefix("$ ")


def inline(text: str) -> list[str]:
    """Code within a line of prose."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def words_of(line: str) -> list[str]:
    """What follows `duro` in a line of shell, or nothing. An id that is cut short gets its letters."""
    line = re.sub(r"\b(ten|we|evt|dlv|rpl|pay|sub|cus|inv)_…", rf"\1_{SAMPLE}", line)
    if not re.match(r"([A-Z_]+=\S+ )*duro( |$)", line):
        return []
    words = shlex.split(line, comments=True)
    return words[words.index("duro") + 1 :]


def find(words: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """The command that the words name, and what is left of them."""
    command: click.Command = main
    context = click.Context(main, info_name="duro")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    return command, context, words


def every_command(group: click.Group = main) -> Iterator[click.Command]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from every_command(command)


def slug(heading: str) -> str:
    """As GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@every_document
def test_commands_in_code_blocks_are_complete_and_valid(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for line in in_blocks(document.read_text(encoding="utf-8")):
        if words := words_of(line):
            command, context, rest = find(words)
            assert not isinstance(command, click.Group), line
            try:
                command.parse_args(context, rest)
            except click.ClickException as error:
                pytest.fail(f"{line}: {error.format_message()}")


def test_the_documents_show_commands() -> None:
    """So that the tests here cannot pass by finding nothing."""
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    assert sum(bool(words_of(line)) for text in texts for line in in_blocks(text)) > 40
    assert sum(bool(words_of(code)) for text in texts for code in inline(text)) > 40


@every_document
def test_commands_and_options_in_prose_exist(document: Path) -> None:
    options = {name for command in every_command() for option in command.params for name in option.opts}
    for code in inline(document.read_text(encoding="utf-8")):
        if words := words_of(code):
            command, context, rest = find(words)
            try:
                _values, extra, _order = command.make_parser(context).parse_args(list(rest))
            except click.ClickException as error:
                pytest.fail(f"{code}: {error.format_message()}")
            assert not extra or "--help" in rest, code
        elif re.match(r"--\w", code):
            assert code.split()[0] in {*options, "--help"}, code


@every_document
def test_settings_exist(document: Path) -> None:
    known = {row["name"] for row in Settings().rows()}
    named = set(re.findall(r"\bDURO_[A-Z][A-Z_]*\b", document.read_text(encoding="utf-8")))
    assert named <= known


@every_document
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.is_file(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in map(slug, headings), target


@every_document
def test_files_and_make_targets_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    top = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")
    for path in re.findall(rf"(?<![\w/.])(?:{top})/[\w./*-]*", "\n".join([*inline(text), *in_blocks(text)])):
        assert list(ROOT.glob(path.rstrip("/"))), path
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", "\n".join([*inline(text), *in_blocks(text)]))) <= targets


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme, page.name


def test_files_named_in_comments_and_docstrings_exist() -> None:
    """A name such as `claiming.py`, with or without folders, in the sources and the SQL of the packages."""
    packages = [ROOT / name for name in ("schema", "consumers", "delivery", "service")]
    paths = [path for package in packages for path in package.rglob("*") if path.suffix in {".py", ".sql"}]
    known = {path.relative_to(ROOT).as_posix() for path in paths}
    missing = [
        f"{path.relative_to(ROOT)}:{number}: {named}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for named in re.findall(r"(?<![\w*{/.-])((?:\w+/)*\w+\.(?:py|sql))\b", line)
        if named != "request.sql"  # an attribute
        and not any(f"/{each}".endswith(f"/{named}") for each in known)
    ]
    assert missing == []

"""The documentation builds without a warning, its links lead somewhere, and its reference is complete."""

from __future__ import annotations

import argparse
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import anynet_dist
from anynet_dist import commands
from anynet_dist.cli import Parser
from anynet_dist.config.options import options
from tests.conftest import ROOT

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src"}
"""What a browser fetches by itself, without a click, beside stylesheets and icons."""
COMMANDS = [module.name for module in pkgutil.iter_modules(commands.__path__)]
VERBATIM = ("pre", "code", "script", "style")


@dataclass
class PageReader(HTMLParser):
    """The anchors, links, fetched files and prose of a page."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)
    verbatim: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.verbatim += tag in VERBATIM
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADS and LOADS[tag] in values:
            self.fetched.append(values[LOADS[tag]])
        if tag == "link" and not {"canonical", "prev", "next"} & set(values.get("rel", "").split()):
            self.fetched.append(values["href"])

    def handle_endtag(self, tag: str) -> None:
        self.verbatim -= tag in VERBATIM

    def handle_data(self, data: str) -> None:
        if not self.verbatim:
            self.prose.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed: it needs python 3.11.5")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, PageReader]:
    """Every page by its file."""
    readers = {}
    for file in sorted(site.rglob("*.html")):
        if file.name != "404.html":  # its links are from the root of a server
            readers[file] = PageReader()
            readers[file].feed(file.read_text(encoding="utf-8"))
    assert len(readers) > 20
    return readers


def test_every_link_leads_to_a_file_and_a_place_in_it(pages: dict[Path, PageReader]) -> None:
    lost = []
    for file, page in pages.items():
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            known = not parts.fragment or target not in pages or parts.fragment in pages[target].anchors
            if not target.exists() or not known:
                lost.append(f"{file.name}: {link}")
    assert lost == []


def test_a_browser_fetches_nothing_from_other_hosts(site: Path, pages: dict[Path, PageReader]) -> None:
    fetched = {link for page in pages.values() for link in page.fetched}
    assert "assets/iframe-worker.js" in fetched
    assert {link for link in fetched if urlsplit(link).netloc} == set()
    sheets = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']*", sheets) == []


def test_no_markdown_is_left_over(pages: dict[Path, PageReader]) -> None:
    """Lists and tables that the repository's pages show and the site's renderer would not."""
    marks = re.compile(r"^(?:[-*] \S|\d+\. \S|\|.*\||```|#+ \S|--8<--)")
    left = [
        f"{file.name}: {line}"
        for file, page in pages.items()
        for line in "".join(page.prose).splitlines()
        if marks.match(line)
    ]
    assert not left, "\n".join(left)


def test_the_config_reference_has_every_option(site: Path, pages: dict[Path, PageReader]) -> None:
    assert set(options()) <= pages[site / "reference" / "config.html"].anchors


def command_lines(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    """A command and its actions, each with its options."""
    choices = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    flags = [flag for action in parser._actions for flag in action.option_strings[-1:] if flag != "--help"]
    yield parser.prog, flags
    for action in choices:
        for below in action.choices.values():
            yield from command_lines(below)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_reference_has_every_command(
    command: str, site: Path, pages: dict[Path, PageReader]
) -> None:
    parser = Parser(prog=f"anynet {command}")
    import_module(f"anynet_dist.commands.{command}").configure(parser)
    anchors = pages[site / "reference" / "commands.html"].anchors
    for line, flags in command_lines(parser):
        words = line.replace(" ", "-")
        assert {words, *(f"{words}{flag}" for flag in flags)} <= anchors


def test_the_python_reference_has_every_name(site: Path, pages: dict[Path, PageReader]) -> None:
    names = {f"anynet_dist.{name}" for name in anynet_dist.__all__ if name != "__version__"}
    assert names <= pages[site / "python.html"].anchors


def test_make_docs_builds_strictly() -> None:
    recipe = re.search(r"^docs: setup .*\n\t@?(.+)\n", (ROOT / "Makefile").read_text(), flags=re.M)
    assert recipe
    assert recipe[1] == ".venv/bin/python -m mkdocs build --strict"

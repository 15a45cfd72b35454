"""What the documents say exists: commands, options, tables, and the versions that are pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from subcell_atlas.cli import main
from subcell_atlas.schema import TABLES

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
MENTION = re.compile(r"(?<!pip install )(?<![\w'-])subcell-atlas ((?:[a-z]+ )?[a-z]+)((?: [^`\n]*)?)")


def mentions():
    for document in DOCUMENTS:
        for line in document.read_text(encoding="utf-8").splitlines():
            for words, rest in MENTION.findall(line):
                yield pytest.param(words, rest, id=f"{document.name}: {words}{rest}"[:70])


@pytest.mark.parametrize(("words", "rest"), list(mentions()))
def test_every_command_that_a_document_names_exists_with_its_options(words, rest):
    first, _, second = words.partition(" ")
    command = main.commands[first]
    if second and hasattr(command, "commands"):
        command = command.commands[second]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest.partition("#")[0])) <= known


def test_the_documents_were_found_and_name_most_commands():
    named = {parameter.values[0].split()[0] for parameter in mentions()}
    assert {"similar", "map", "sql", "ingest", "build", "evaluate", "encoders", "app"} <= named


def test_the_guide_lists_every_table():
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    assert all(f"`{table}`" in guide for table in TABLES)


def test_links_to_files_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).is_file(), target


def test_every_dependency_is_pinned_and_torch_at_the_build_that_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    for requirement in [*project["dependencies"], *extras]:
        assert re.match(r"[\w-]+", requirement)[0].lower() in pins, requirement
    assert pins["torch"] == "2.13.0"

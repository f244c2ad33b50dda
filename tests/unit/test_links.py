"""Every link within the repository leads somewhere, and every page is linked from the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith((".", "node_modules", "build", "dist")) for part in page.relative_to(ROOT).parts)
)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?\s*\)")


def prose(page: Path) -> str:
    """The page without its examples."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, no punctuation, hyphens for blanks, numbers for repetitions."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        same = sum(1 for one in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one))
        found.add(f"{slug}-{same}" if same else slug)
    return found


def problems(page: Path) -> list[str]:
    wrong = []
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{target}: {file.name} has no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    assert not problems(page)


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# Two words: `and` more\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[1](there.md#two-words-and-more) [2](#own) [3](https://example.com/x) [4](gone.md) [5](there.md#gone)\n"
        "# Own\n```\n[6](in-an-example.md)\n```\n"
    )
    assert problems(page) == ["gone.md: no such file", "there.md#gone: there.md has no such heading"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_readme_leads_to_every_page(page: Path) -> None:
    assert f"docs/{page.name}" in {target.partition("#")[0] for target in _LINK.findall(prose(ROOT / "README.md"))}

"""The documentation hangs together: links lead somewhere, and every page can be found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SCRIPT = re.compile(r"\b((?:benchmarks|examples|scripts|tests|docs|docker)/[\w./-]+\.\w+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for target in LINK.findall(text):
        if "://" not in target and not target.startswith("#"):
            path = page.parent / target.partition("#")[0]
            assert path.exists(), f"{page.name} links to {target}"
    for name in SCRIPT.findall(re.sub(r"https?://\S+", "", text)):
        found = (ROOT / name).exists() or (page.parent / name).exists()
        assert found, f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES[2:], ids=lambda page: page.name)
def test_every_page_is_linked_from_the_readme(page: Path) -> None:
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text()


def test_every_picture_is_shown_and_taken_by_the_script() -> None:
    folder = ROOT / "docs" / "images"
    pictures = {path.name for path in folder.glob("*.png")}
    shown = {Path(t).name for page in PAGES for t in LINK.findall(page.read_text()) if ".png" in t}
    assert shown == pictures
    assert set(re.findall(r'"([\w-]+\.png)"', (folder / "make.py").read_text())) == pictures


def test_architecture_names_every_seam_and_value_that_is_there() -> None:
    """Classes and files in its tables exist; a house that was rebuilt has an outdated plan."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    code = "".join(
        path.read_text()
        for package in ("hardware_profiles", "spaces", "evaluators", "search")
        for path in (ROOT / package).rglob("*.py")
    )
    values = re.findall(r"`([A-Z]\w+)`", text)
    assert len(values) > 10
    for name in values:
        assert re.search(rf"^class {name}\b", code, re.MULTILINE), name
    for path in re.findall(r"`((?:hardware_profiles|spaces|evaluators|search)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path

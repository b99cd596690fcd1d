"""The pages in docs/reports are whole, small, without network, folders or code of others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.evaluation.page.factory import Parsed

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "reports"
PAGES = sorted(FOLDER.glob("*.html"))
#: Rows of each page's table: cases or pairs, and each model or method, alignment among them.
CASES = {"ms_lesions": 30 * 2, "registration": 9 * 4}


def test_pages_are_named_and_small() -> None:
    assert PAGES
    assert sum(path.stat().st_size for path in PAGES) < 5e6
    told = (FOLDER / "README.md").read_text()
    pictures = sorted(FOLDER.glob("*.png"))
    assert all(path.name in told for path in (*PAGES, *pictures))
    assert all(path.stat().st_size < 150e3 for path in pictures)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_is_fit_to_be_kept(path: Path) -> None:
    made = Parsed(path.read_text(encoding="utf-8"))
    assert (made.unmatched, made.open) == ([], [])
    assert "niivue" not in made.scripts
    assert not re.search(r"https?://|/tmp/|/home/|/root/", made.source)
    assert made.rows["cases-table"] == CASES[path.stem]

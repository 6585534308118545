"""Check that pages and source use American spelling and no banned words. See CONTRIBUTING.md."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BRITISH = r"\w*(?:initialis|normalis|quantis|optimis|minimis|recognis|serialis|behaviour|colour|centred?\b)\w*"
UNUSUAL = r"grey|mend|mends|mended|mending|dear|dearer|dearest|hitherto|whilst|thereof|wherein"
WORDS = re.compile(rf"\b(?:{BRITISH}|{UNUSUAL})\b", re.IGNORECASE)
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("src/**/*.py"),
    *(path for kind in ("cpp", "cu", "cuh", "j2") for path in ROOT.glob(f"src/**/*.{kind}")),
    *ROOT.glob("examples/*.py"),
    *ROOT.glob("benchmarks/*.md"),
    *ROOT.glob("benchmarks/*.py"),
]


@pytest.mark.parametrize("text", ["the colours", "Initialised", "a bug is mended", "grey images"])
def test_banned_words_are_found(text):
    assert WORDS.search(text)


def test_no_page_has_a_banned_word():
    assert len(PAGES) > 100
    words = {
        f"{path.relative_to(ROOT)}:{number}": match[0]
        for path in PAGES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := WORDS.search(line))
    }
    assert not words


def test_no_page_advises_to_install_from_an_index():
    """The name cnnmod is not registered in a package index, so anybody could register it."""
    advice = re.compile(r"pip install\s+\S*cnnmod\b")
    assert advice.search("pip install 'cnnmod[all]'")
    assert [path for path in PAGES if advice.search(path.read_text(encoding="utf-8"))] == []

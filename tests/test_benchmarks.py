import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "render", raising=False)
    import render

    return render


def test_tables_are_those_of_the_result_files(render):
    for page in render.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- table: " in text
        assert render.rendered(text) == text, f"{page.name}: run benchmarks/render.py"


def test_a_stale_table_is_noticed(render):
    text = render.PAGES[0].read_text(encoding="utf-8")
    assert render.rendered(text.replace("| resnet75_mod |", "| resnet76_mod |")) == text


def test_readme_promises():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    assert "```python" in readme.split("\n", 20)[:20]


def test_every_file_has_its_line_in_the_architecture():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "src").rglob("*.py"):
        assert path.name in page, path

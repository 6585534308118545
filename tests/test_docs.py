"""Run the Python examples of the documentation."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from cnnmod import convert_, export
from cnnmod.networks import build

DOCS = Path(__file__).parents[1] / "docs"


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


ON_GPU = [code for code in blocks_of("deploy.md") if "cuda" in code]
ON_CPU = [code for code in blocks_of("deploy.md") if "cuda" not in code]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.parametrize("code", ON_GPU)
def test_deploy_examples_run_on_a_gpu(code):
    found = {}
    exec(code, found)
    assert tuple(found["logits"].shape) == (8, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("code", ON_CPU, ids=lambda code: code.split()[1].strip(","))
def test_deploy_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (name,) = re.findall(r'"(network\.\w+)"', code)
    kind = {"onnx": "onnx", "xml": "openvino", "pt2": "pt2"}[name.partition(".")[2]]
    export(convert_(build("resnet18")).eval(), torch.rand(1, 3, 224, 224), tmp_path / name, format=kind)
    found = {}
    exec(code, found)
    assert tuple(found["logits"].shape) == (2, 1000)


@pytest.mark.slow
def test_dense_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    for code in blocks_of("dense.md"):
        exec(code, found)
    with torch.inference_mode():
        assert found["detector"]([torch.rand(3, 600, 800)])[0].keys() == {"boxes", "labels", "scores"}
    assert found["report"].largest_error < 1e-4


class OutsideCode(HTMLParser):
    """Collect the text of a page outside of code blocks."""

    def __init__(self):
        super().__init__()
        self.depth, self.text = 0, []

    def handle_starttag(self, tag, attrs):
        self.depth += tag in ("pre", "code")

    def handle_endtag(self, tag):
        self.depth -= tag in ("pre", "code")

    def handle_data(self, data):
        if not self.depth:
            self.text.append(data)


@pytest.mark.slow
def test_docstring_examples_are_rendered_as_code_blocks(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=DOCS.parent, check=True)
    pages = list(tmp_path.rglob("*.html"))
    examples = 0
    for page in pages:
        html = page.read_text(encoding="utf-8")
        parser = OutsideCode()
        parser.feed(html)
        examples += html.count("&gt;&gt;&gt;")
        assert ">>>" not in "".join(parser.text), page.relative_to(tmp_path)
        # markdown converts >>> outside of a code block to nested quotations
        assert not re.search(r"<blockquote>\s*<blockquote>", html), page.relative_to(tmp_path)
    assert len(pages) > 12
    assert examples > 50

"""Run the Python examples of the documentation."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from cnnmod import convert_, export
from cnnmod.networks import build
from conftest import trained_norms_

DOCS = Path(__file__).parents[1] / "docs"


def blocks_of(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


ON_GPU = [code for code in blocks_of("deploy.md") if "cuda" in code]
SERVED = [code for code in blocks_of("deploy.md") if "image.jpg" in code]
WITHOUT_TORCH = "import sys; sys.modules |= dict.fromkeys(('torch', 'cnnmod', 'timm', 'torchvision'))\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.parametrize("code", ON_GPU)
def test_deploy_examples_run_on_a_gpu(code):
    found = {}
    exec(code, found)
    assert tuple(found["logits"].shape) == (8, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("code", SERVED, ids=["onnx", "openvino"])
def test_exported_file_serves_a_jpeg_without_torch_and_cnnmod(code, tmp_path):
    model = trained_norms_(convert_(build("resnet18_cifar", layers=(1, 2, 1, 1), channels=(16, 16, 16, 16))))
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    names = [f"class {number}" for number in range(10)]
    (file,) = re.findall(r'"(network\.\w+)"', code)
    export(model, torch.rand(1, 3, 48, 32), tmp_path / file, **statistics, classes=names, preprocessing=True)
    photograph = Image.open(DOCS / "bccd.jpg").convert("RGB")
    photograph.save(tmp_path / "image.jpg")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    pixels = pil_to_tensor(Image.open(tmp_path / "image.jpg").resize((32, 48)))
    mean, std = (torch.tensor(statistics[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        expected = int(model(((pixels / 255 - mean) / std)[None]).argmax())
    assert done.stdout == f"class {expected}\n"


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("c++", "cmake"))), reason="there is no C++ compiler or no cmake")
def test_cpp_program_is_built_as_typed_and_prints_the_logits_of_python(tmp_path):
    model = trained_norms_(convert_(build("resnet18_cifar", layers=(1, 2, 1, 1), channels=(16, 16, 16, 16))))
    example, file = torch.rand(1, 3, 48, 32), tmp_path / "network.xml"
    export(model, example, file, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), preprocessing=True)
    pixels = np.asarray(Image.open(DOCS / "bccd.jpg").convert("RGB").resize((32, 48)))
    pixels.tofile(tmp_path / "image.rgb")
    (tmp_path / "classify.cpp").write_text(*blocks_of("deploy.md", "cpp"), encoding="utf-8")
    (tmp_path / "CMakeLists.txt").write_text(*blocks_of("deploy.md", "cmake"), encoding="utf-8")
    (commands,) = (code for code in blocks_of("deploy.md", "bash") if "cmake" in code)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    printed = np.array([line for line in done.stdout.splitlines() if not line.startswith(("--", "["))], np.float32)
    network = openvino.compile_model(openvino.Core().read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_array_equal(printed, network({"images": pixels[None]})["logits"][0])


@pytest.mark.slow
def test_pt2_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = (code for code in blocks_of("deploy.md") if "network.pt2" in code)
    export(convert_(build("resnet18")).eval(), torch.rand(1, 3, 224, 224), tmp_path / "network.pt2")
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

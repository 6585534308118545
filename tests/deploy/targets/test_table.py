import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cnnmod.deploy import FileTarget, Target, lower, register_target
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.targets.table import TARGETS, file_targets, find_format, find_runtime, runtimes
from small import tiny_network


class Outside(Target):
    name = "outside"
    forms = (EagerForm,)
    in_torch = True

    def start(self, lowered, example, precision):
        return lowered


class OutsideFile(FileTarget):
    name = "outside"
    forms = (EagerForm,)
    format = "outside"
    suffix = ".out"

    def write(self, lowered, example, path, *, dynamic_batch, half=False):
        path.write_bytes(b"")

    def load(self, path, threads, precision="float32", *, selected=False):
        raise NotImplementedError

    def operators(self, path):
        return {}


@pytest.fixture(autouse=True)
def as_before():
    before = dict(TARGETS)
    yield
    TARGETS.clear()
    TARGETS.update(before)


def test_built_in_runtimes_are_listed():
    assert list(runtimes()) == [
        "eager",
        "compile",
        "cudagraph",
        "onnxruntime",
        "onnxruntime-int8",
        "openvino",
        "openvino-bf16",
        "openvino-int8",
        "pt2",
    ]
    assert [target.format for target in file_targets()] == ["onnx", "openvino", "pt2"]
    assert find_runtime("openvino-bf16") == (TARGETS["openvino"], "bf16")
    assert find_format("onnx") is TARGETS["onnxruntime"]


def test_registered_target_is_found_by_name():
    assert register_target(Outside) is Outside
    assert isinstance(find_runtime("outside").target, Outside)
    model = tiny_network().eval()
    images = torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(lower(model, "outside", example=images)(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "a target must be a subclass of cnnmod.deploy.Target, not 3"),
        (Outside(), "a target must be a subclass of cnnmod.deploy.Target, not <"),
        (type("A", (Outside,), {"name": "eager"}), "the target A has the name 'eager', which EagerTarget already has"),
        (
            type("A", (Outside,), {"name": "openvino-bf16"}),
            "the target A has the name 'openvino-bf16', which OpenVinoTarget already has",
        ),
        (
            type("A", (Target,), {"name": "a", "forms": ()}),
            r"the target A has no start\(\)",
        ),
        (
            type("A", (FileTarget,), {"name": "a"}),
            r"the target A has no load\(\), operators\(\), write\(\), forms, format, suffix",
        ),
        (
            type("A", (OutsideFile,), {"precisions": ("int8",)}),
            "the precision 'int8' but no quantize",
        ),
        (
            type("A", (OutsideFile,), {"suffix": ".onnx"}),
            "and the suffix '.onnx', but OnnxRuntimeTarget already has",
        ),
        (type("A", (OutsideFile,), {"format": "pt2"}), "format 'pt2' and the suffix '.out', but Pt2Target already has"),
    ],
)
def test_invalid_targets_raise(target, message):
    before = dict(TARGETS)
    with pytest.raises(ValueError, match=message) as raised:
        register_target(target)
    assert "\n" not in str(raised.value)
    assert before == TARGETS


def test_unknown_and_missing_runtimes_raise(monkeypatch):
    with pytest.raises(
        ValueError, match="unknown runtime 'tensorrt'; the runtimes are eager, compile, cudagraph, onnx"
    ):
        find_runtime("tensorrt")
    with pytest.raises(ValueError, match="unknown format 'tflite'; the formats are onnx, openvino, pt2"):
        find_format("tflite")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ModuleNotFoundError, match=r"openvino-int8 needs nncf; .*pip install '\.\[deploy\]'"):
        find_runtime("openvino-int8")
    assert find_runtime("openvino").target.name == "openvino"
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"openvino-bf16 needs openvino; .*pip install '\.\[deploy\]'",
    ):
        find_runtime("openvino-bf16")


def test_missing_package_of_a_user_target_raises():
    register_target(type("A", (Outside,), {"packages": ("no_such_package",)}))
    with pytest.raises(ModuleNotFoundError, match=r"^outside needs no_such_package; run: pip install no_such_package$"):
        find_runtime("outside")


INSTALLED = """
import json, logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from cnnmod.deploy.targets.table import runtimes
print(json.dumps(list(runtimes())))
"""
MODULE = """
from cnnmod.deploy import Target
from cnnmod.deploy.forms import EagerForm

class Installed(Target):
    name = "installed"
    forms = (EagerForm,)

    def start(self, lowered, example, precision):
        return lowered

class Fails(Installed):
    name = "fails"

    def __init__(self):
        raise RuntimeError("no device")
"""


def test_entry_points_register_targets_and_log_broken_ones(tmp_path: Path):
    (tmp_path / "with_target.py").write_text(MODULE)
    info = tmp_path / "with_target-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: with-target\nVersion: 1.0\n")
    entries = ["[cnnmod.targets]", "installed = with_target:Installed", "broken = no_such_module:Target"]
    entries += ["fails = with_target:Fails"]
    (info / "entry_points.txt").write_text("\n".join(entries))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{INSTALLED}"],
        capture_output=True,
        text=True,
        check=True,
    )
    *warnings, names = done.stdout.splitlines()
    assert warnings == [
        "the target 'broken' of the package with-target is not used: No module named 'no_such_module'",
        "the target 'fails' of the package with-target is not used: the target Fails cannot be created without "
        "arguments: no device",
    ]
    assert json.loads(names)[-1] == "installed"

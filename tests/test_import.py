import importlib
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

PUBLIC = ("deploy", "measure", "method", "networks", "records", "report", "training", "tuning")
PACKAGES = ["cnnmod", *(f"cnnmod.{name}" for name in PUBLIC)]


def test_import_loads_only_torch_and_safetensors():
    """Packages of networks, tables and figures are not imported."""
    packages = "cnnmod, cnnmod.deploy, cnnmod.measure, cnnmod.method, cnnmod.records, cnnmod.tuning"
    names = "{name.partition('.')[0] for name in sys.modules} | {'torch._dynamo'} & sys.modules.keys()"
    code = f"import sys, {packages}; print(*sorted({names}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"torch", "safetensors"} <= loaded
    assert not loaded & {"timm", "torchvision", "matplotlib", "accelerate", "rich", "tyro", "sklearn", "torchmetrics"}
    assert not loaded & {"onnx", "onnxruntime", "openvino", "nncf"}
    assert "torch._dynamo" not in loaded  # it takes longer to import than torch
    assert done.stderr == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_are_unique(package):
    """Each name in `__all__` is unique and can be imported."""
    names = importlib.import_module(package).__all__
    assert len(names) == len(set(names))
    imported = {}
    exec(f"from {package} import *", imported)
    assert set(names) <= set(imported)
    modules = [name for name in names if type(imported[name]) is type(sys)]
    assert not modules, "a name is a submodule instead of a function"


def test_every_public_package_is_listed():
    folder = Path(str(files("cnnmod")))
    packages = {f"cnnmod.{file.parent.name}" for file in folder.glob("*/__init__.py")}
    assert packages - {"cnnmod.cli"} == set(PACKAGES[1:])


def test_root_names_are_the_same_objects_in_their_packages():
    import cnnmod

    for package in ("deploy", "measure", "method", "tuning"):
        exported = importlib.import_module(f"cnnmod.{package}")
        for name in set(exported.__all__) & set(cnnmod.__all__):
            assert getattr(exported, name) is getattr(cnnmod, name)


def test_package_is_typed():
    assert (files("cnnmod") / "py.typed").is_file()

"""Wheel and source distribution: both have every file, and the installed wheel works outside the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the source distribution, and with the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """A new environment with the wheel. It has the other packages of this environment, but not the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
    run(*pip, wheel, cwd=folder)
    # A path in a .pth file does not read the .pth files there, such as that of the checkout.
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder


def run(*command, cwd):
    """Run a command outside the checkout and return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=inherited, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_both_have_every_file_of_the_package(built):
    paths = [path for path in (ROOT / "src" / "cnnmod").rglob("*") if path.is_file()]
    names = {str(path.relative_to(ROOT / "src")) for path in paths if "__pycache__" not in path.parts}
    assert {"cnnmod/py.typed", "cnnmod/networks/paper.json", "cnnmod/deploy/cuda/threads.cuh"} <= names
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert {name for name in contents(wheel) if ".dist-info/" not in name} == names
    with tarfile.open(source) as archive:
        top = f"cnnmod-{version('cnnmod')}/src/"
        assert {name.removeprefix(top) for name in archive.getnames() if name.startswith(f"{top}cnnmod/")} == names


def test_source_distribution_builds_the_wheel_of_the_checkout(built, tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (from_source,), (from_checkout,) = built.glob("*.whl"), tmp_path.glob("*.whl")
    assert contents(from_source) == contents(from_checkout)


def test_installed_wheel_works(environment, tmp_path):
    cnnmod = environment / "bin" / "cnnmod"
    assert run(cnnmod, "--version", cwd=tmp_path) == f"cnnmod {version('cnnmod')}\n"
    assert "ImageNet, 224 × 224" in run(cnnmod, "info", "resnet50_mod", cwd=tmp_path)  # from paper.json
    code = (
        "import cnnmod, cnnmod.networks, pathlib, torch\n"
        "print(cnnmod.__file__)\n"
        "model = cnnmod.convert_(cnnmod.networks.build('resnet18'))\n"
        "assert cnnmod.mod_blocks(model)\n"
        "assert model(torch.rand(2, 3, 64, 64)).shape == (2, 1000)\n"
    )
    file = run(environment / "bin" / "python", "-c", code, cwd=tmp_path)
    assert Path(file).is_relative_to(environment)


def test_types_of_a_users_script_are_known(environment, tmp_path):
    """pyright and mypy check the public names, strictly, against the installed package."""
    script = shutil.copy(ROOT / "tests" / "typing" / "user.py", tmp_path)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pyright", "--pythonpath", python, script, cwd=tmp_path)
    run(sys.executable, "-m", "mypy", "--python-executable", python, "--strict", script, cwd=tmp_path)

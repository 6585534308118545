import os
import subprocess
import sys
from importlib.metadata import version


def test_without_the_extra_packages(tmp_path):
    (tmp_path / "tyro.py").write_text("raise ModuleNotFoundError(\"No module named 'tyro'\", name='tyro')")
    command = [sys.executable, "-m", "cnnmod", "info", "resnet50_mod"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr == "cnnmod: the command line needs tyro: pip install 'cnnmod[all]'\n"


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "cnnmod", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("demo", "info", "compare", "plot", "train", "evaluate"))


def test_version(tmp_path):
    """Without the command line's packages, and without the networks'."""
    (tmp_path / "tyro.py").write_text("raise ModuleNotFoundError(\"No module named 'tyro'\", name='tyro')")
    (tmp_path / "timm.py").write_text("raise ModuleNotFoundError(\"No module named 'timm'\", name='timm')")
    command = [sys.executable, "-m", "cnnmod", "--version"]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cnnmod {version('cnnmod')}\n", "")

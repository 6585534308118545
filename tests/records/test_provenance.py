import re
from pathlib import Path

import torch

from cnnmod.records.provenance import Provenance, _gpu_versions


def test_provenance_has_versions_device_and_commit():
    made = Provenance.now(torch.device("cpu"), 2)
    assert made.versions["torch"] == torch.__version__.partition("+")[0] or made.versions["torch"] == torch.__version__
    assert made.device == "cpu"
    assert made.processor
    if (Path(__file__).parents[2] / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", made.commit)
    else:
        assert made.commit is None


def test_versions_of_a_gpu(tmp_path, monkeypatch):
    """A program with the name of NVIDIA's is asked for the driver. Without it, the driver is left out."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.159.04\necho 580.159.04\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert _gpu_versions()["driver"] == "580.159.04"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert "driver" not in _gpu_versions()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "driver" not in _gpu_versions()
    assert all(isinstance(version, str) for version in _gpu_versions().values())

import pytest
import torch

from cnnmod.deploy.cuda import kernels
from cnnmod.deploy.cuda.kernels import ELEMENTS, CudaError, binary

pytest.importorskip("cuda.bindings.nvrtc", reason="torch is installed without cuda-bindings")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [
        (torch.bfloat16, (9, 0)),
        *(
            pytest.param(dtype, capability, marks=pytest.mark.slow)
            for dtype in ELEMENTS
            for capability in ((7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0))
        ),
    ],
    ids=str,
)
def test_kernels_compile_without_a_gpu_and_once(dtype, capability, tmp_path, monkeypatch):
    compiled = binary(dtype, capability)
    assert compiled.startswith(b"\x7fELF")
    (file,) = (tmp_path / "cnnmod").iterdir()
    assert file.suffix == ".cubin"
    monkeypatch.setattr(kernels, "_compile", None)
    assert binary(dtype, capability) == compiled


def test_an_unknown_gpu_raises(tmp_path):
    with pytest.raises(CudaError, match="invalid value for --gpu-architecture"):
        binary(torch.float32, (99, 0))
    assert list((tmp_path / "cnnmod").iterdir()) == []

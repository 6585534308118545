import subprocess
import sys


def test_importing_cnnmod_is_lean():
    """torch and safetensors only; networks, tables and figures are asked for by name."""
    code = "import sys, cnnmod; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"torch", "safetensors"} <= loaded
    assert not loaded & {"timm", "torchvision", "matplotlib", "accelerate", "rich", "tyro", "sklearn", "torchmetrics"}
    assert done.stderr == ""

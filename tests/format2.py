"""The network in format2.safetensors. `python tests/format2.py` writes the file."""

from pathlib import Path

from format1 import IMAGES, small_network

FILE = Path(__file__).with_name("format2.safetensors")

if __name__ == "__main__":
    import torch

    from cnnmod import MoDConfig, convert_, save

    torch.manual_seed(0)
    model = convert_(small_network(8), {"1.1": MoDConfig(c=4), "1.2": "skip"}, example=IMAGES).eval()
    save(model, FILE, factory="format1:small_network", factory_args={"width": 8})
    print(model(IMAGES).tolist())

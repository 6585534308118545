import threading

import numpy
import torch
from torch import nn

from cnnmod.deploy.targets.table import TARGETS


def test_one_session_supports_many_threads(tmp_path):
    example, path = torch.rand(1, 1, 8, 8), tmp_path / "network.onnx"
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    TARGETS["onnxruntime"].write(model, example, path, dynamic_batch=True)
    run = TARGETS["onnxruntime"].load(path, 1)
    images = torch.rand(64, 1, 8, 8)
    one_by_one = [run(image[None])[0] for image in images]
    found = [None] * 64

    def work(start):
        for number in range(start, 64, 8):
            found[number] = run(images[number : number + 1])[0]

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(found, one_by_one, strict=True):
        numpy.testing.assert_array_equal(ours, theirs)

"""The HTTP service of examples/serve.py, as a user starts it."""

import contextlib
import http.client
import io
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnmod import MoDConfig, convert_, export
from conftest import trained_norms_
from small import tiny_network

EXAMPLES = Path(__file__).parents[2] / "examples"
WITHOUT_TORCH = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "cnnmod"))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The port of a service over a small network."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("served")
    example = torch.rand(1, 1, 8, 8)
    model = trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=example))
    about = {"mean": [0.5], "std": [0.25], "classes": [f"digit {number}" for number in range(10)]}
    export(model, example, folder / "network.onnx", **about, preprocessing=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    arguments = [str(EXAMPLES / "serve.py"), str(folder / "network.onnx"), "--port", str(number)]
    process = subprocess.Popen([sys.executable, "-c", WITHOUT_TORCH, *arguments])
    try:
        for _ in range(300):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", number)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield number
    finally:
        process.terminate()
        process.wait()


def ask(connection, body):
    connection.request("POST", "/predict", body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def connected(port):
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60))


@pytest.mark.slow
def test_every_answer_under_load_equals_the_sequential_one(port):
    """64 clients send 2,000 requests."""
    images = [jpeg(seed) for seed in range(100)]
    with connected(port) as connection:
        expected = [ask(connection, image) for image in images]
    assert {status for status, _ in expected} == {200}
    assert len({answer["probability"] for _, answer in expected}) > 1

    def client(number):
        indices = [index % len(images) for index in range(number, 2000, 64)]
        with connected(port) as connection:
            return [(index, ask(connection, images[index])) for index in indices]

    with ThreadPoolExecutor(64) as pool:
        answers = [answer for client_answers in pool.map(client, range(64)) for answer in client_answers]
    assert len(answers) == 2000
    assert all(answer == expected[index] for index, answer in answers)


@pytest.mark.slow
def test_body_that_is_not_an_image_is_refused(port):
    with connected(port) as connection:
        status, answer = ask(connection, b"text")
    assert status == 400
    assert answer["error"].startswith("the body is not an image")

"""A small HTTP service over a file of `cnnmod export --with-preprocessing`. It needs neither torch nor cnnmod.

    pip install onnxruntime pillow starlette uvicorn
    python examples/serve.py network.onnx --port 8000
    curl --data-binary @image.jpg http://127.0.0.1:8000/predict

The answer is JSON: `{"class": "cat", "probability": 0.93}`. Each request runs alone, without batching, in a thread of
the server. The file and its metadata are read once.
"""

import argparse
import io
import json
from typing import Any

import numpy
import onnxruntime
import uvicorn
from PIL import Image, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

LARGEST_BYTES = 20_000_000


class Classifier:
    """A file that takes uint8 pixels, with the metadata that `cnnmod export` wrote."""

    def __init__(self, path: str, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # requests run in parallel
        self.session = onnxruntime.InferenceSession(path, options)
        metadata = self.session.get_modelmeta().custom_metadata_map
        if not metadata.get("input", "").startswith("uint8"):
            raise SystemExit(f"{path} does not take pixels; export it with --with-preprocessing")
        self.height, self.width = json.loads(metadata["input_size"])
        self.mode = "L" if metadata["color_order"] == "gray" else "RGB"
        self.names = json.loads(metadata.get("class_names", "null"))

    def __call__(self, encoded: bytes) -> dict[str, Any]:
        """Classify an encoded image."""
        image = Image.open(io.BytesIO(encoded)).convert(self.mode).resize((self.width, self.height))
        pixels = numpy.asarray(image).reshape(1, self.height, self.width, -1)
        logits = numpy.asarray(self.session.run(["logits"], {"images": pixels})[0])[0]
        exponentials = numpy.exp(logits - logits.max())
        best = int(exponentials.argmax())
        name = str(best) if self.names is None else self.names[best]
        return {"class": name, "probability": round(float(exponentials[best] / exponentials.sum()), 4)}


def service(classifier: Classifier) -> Starlette:
    """Return the HTTP application."""

    async def predict(request: Request) -> JSONResponse:
        encoded = b""
        async for part in request.stream():
            encoded += part
            if len(encoded) > LARGEST_BYTES:
                return JSONResponse({"error": f"the image has more than {LARGEST_BYTES} bytes"}, 413)
        try:
            return JSONResponse(await run_in_threadpool(classifier, encoded))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            return JSONResponse({"error": f"the body is not an image: {error}"}, 400)

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a file of cnnmod export --with-preprocessing")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1, help="threads of one request")
    given = parser.parse_args()
    application = service(Classifier(given.network, given.threads))
    uvicorn.run(application, host=given.host, port=given.port, log_level="warning")

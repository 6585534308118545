"""The arguments of the kernels in `mod_block.cu`, as C structures."""

import ctypes

from cnnmod.deploy.cuda.plan import MOST_STEPS

_INT, _POINTER = ctypes.c_int, ctypes.c_void_p


class StepArguments(ctypes.Structure):
    """`Step` in `mod_block.cu`."""

    _fields_ = [
        *((name, _INT) for name in ("operation", "inputs", "outputs", "target", "source", "other")),
        *((name, _INT) for name in ("size", "dilation", "padding", "groups", "weight_last")),
        ("weight", _POINTER),
        ("bias", _POINTER),
    ]


class Arguments(ctypes.Structure):
    """`Arguments` in `mod_block.cu`."""

    _fields_ = [
        *((name, _POINTER) for name in ("x", "reduce", "expand", "gain", "sums", "score", "index", "result")),
        *((name, _INT) for name in ("images", "channels", "height", "width", "channels_last")),
        *((name, _INT) for name in ("pool", "hidden", "k", "by_index", "start")),
        *((name, _INT) for name in ("strips", "pool_tile", "tile_rows", "halo")),
        *((name, _INT) for name in ("output", "num_steps")),
        ("steps", StepArguments * MOST_STEPS),
    ]

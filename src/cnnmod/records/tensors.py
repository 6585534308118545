"""read_tensors: the metadata and the tensors of a safetensors file."""

import os

from safetensors import safe_open
from torch import Tensor


def read_tensors(path: str | os.PathLike[str], tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata of a safetensors file and, if wanted, its tensors by name.

    Raises:
        OSError: If the file cannot be read.
        SafetensorError: If it is not a safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        names = file.keys() if tensors else ()
        return file.metadata() or {}, {name: file.get_tensor(name) for name in names}

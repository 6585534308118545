"""What is written down: whole files, read back strictly, with where they come from."""

from cnnmod.records.files import write_whole
from cnnmod.records.provenance import Provenance

__all__ = [
    "Provenance",
    "write_whole",
]

"""Result files. They are written atomically, validated when they are read, and contain their provenance."""

from cnnmod.records.files import write_whole
from cnnmod.records.provenance import Provenance

__all__ = [
    "Provenance",
    "write_whole",
]

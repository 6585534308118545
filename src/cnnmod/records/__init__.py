"""Files of results: written completely or not at all, validated when read, and stored with their provenance."""

from cnnmod.records.files import write_whole
from cnnmod.records.provenance import Provenance

__all__ = [
    "Provenance",
    "write_whole",
]

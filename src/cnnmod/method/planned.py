"""Plan: what becomes of each block of a network, and why."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from cnnmod.records.frame import data_frame
from cnnmod.records.text import Printed, TextTable


@dataclass(frozen=True)
class PlannedBlock:
    """One block of a network.

    Attributes:
        name: The block's qualified name.
        kind: The name of its class.
        module, position: The index of its module and its position in the module, both counted from 0.
        channels: C, the number of channels of its output.
        chosen: Whether `placement` and `filter_fn`, or the choice for this block, choose the block.
        k: The number of channels that the MoD block selects. `None` if it does not become a MoD block.
        reason: The reason why it stays a standard block. Empty for a MoD block and a skipped block.
        c: The divisor c of a MoD block. `None` if it does not become a MoD block.
        skipped: Whether the identity replaces the block.
    """

    name: str
    kind: str
    module: int
    position: int
    channels: int
    chosen: bool
    k: int | None
    reason: str
    c: int | None = None
    skipped: bool = False


@dataclass(frozen=True, repr=False)
class Plan(Printed):
    """The planned conversion of a network. It is printed as a table.

    Attributes:
        network: The name of the network's class.
        c: The divisor c in k = max(1, C // c). `None` if the blocks have different divisors.
        blocks: All blocks, in the network's order.
    """

    network: str
    c: int | None
    blocks: tuple[PlannedBlock, ...]

    @property
    def mod_blocks(self) -> list[str]:
        """The names of the blocks that become MoD blocks."""
        return [block.name for block in self.blocks if block.k is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    def to_pandas(self) -> Any:
        """Return a pandas data frame with a line for each block.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        return data_frame([dataclasses.asdict(block) for block in self.blocks])

    @property
    def skipped_blocks(self) -> list[str]:
        """The names of the blocks that the identity replaces."""
        return [block.name for block in self.blocks if block.skipped]

    def _table(self) -> TextTable:
        lines = [(b.name, b.kind, b.module, b.channels, b.k or "", self._result(b)) for b in self.blocks]
        counts = f"{len(self.mod_blocks)} MoD blocks" + ("" if self.c is None else f", c = {self.c}")
        skipped = len(self.skipped_blocks)
        title = f"{self.network}: {counts}{f', {skipped} skipped' if skipped else ''}"
        return TextTable(title, ["block", "class", "module", "C", "k", ""], [list(map(str, line)) for line in lines])

    def _result(self, block: PlannedBlock) -> str:
        if block.skipped:
            return "skipped"
        return block.reason or ("MoD block" if self.c is not None else f"MoD block, c = {block.c}")

"""The table of a network, block by block."""

import itertools

from torch import Tensor, nn

from cnnmod.measure.count import count_modules
from cnnmod.method.convert import mod_blocks
from cnnmod.method.discover import find_modules
from cnnmod.method.plan import plan
from cnnmod.method.planned import PlannedBlock
from cnnmod.method.skip import skipped_blocks
from cnnmod.networks.paper import paper_rows
from cnnmod.records.text import TextTable


def network_table(name: str, model: nn.Module, example: Tensor | None = None) -> TextTable:
    """Return the table of a network's blocks: kind, C, k, parameters and MACs, with the paper's figures.

    For a dense network, the column "kind" shows which blocks `convert_` would replace.
    """
    sizes = count_modules(model, example)
    mod, skipped = mod_blocks(model), skipped_blocks(model)
    notes = ["MMACs: 10⁶ multiply-adds of convolutions and linear layers, one image."]
    modules: list[list[str]] = []
    planned: dict[str, PlannedBlock] = {}
    try:
        if mod or skipped:
            modules = _with_others(find_modules(model, example), [*mod, *skipped], model)
        else:
            conversion = plan(model, example=example)
            planned = {block.name: block for block in conversion.blocks}
            groups = itertools.groupby(conversion.blocks, lambda block: block.module)
            modules = [[block.name for block in blocks] for _, blocks in groups]
            notes.append(
                f"→ MoD: cnnmod.convert_ replaces this block, c = {conversion.c}; parameters and MMACs are before "
                "conversion."
            )
            refused = {block.kind: block for block in reversed(conversion.blocks) if block.chosen and block.k is None}
            notes += [
                f"{class_name} stays a standard block at {b.name}: {b.reason}." for class_name, b in refused.items()
            ]
    except ValueError as error:  # the network has no modules; counting shows that it runs
        notes.append(f"{error}.")
    rows: list[list[str]] = []
    for index, names in enumerate(modules):
        for block in names:
            cells = ["standard", "", ""]
            if block in mod:
                cells = ["MoD", str(mod[block].channels), str(mod[block].k)]
            elif block in skipped:
                cells = ["skipped", "", ""]
            elif block in planned and planned[block].k is not None:
                cells = ["→ MoD", str(planned[block].channels), str(planned[block].k)]
            size = sizes[block]
            rows.append([block, str(index), *cells, f"{size.parameters:,}", f"{size.gmacs * 1e3:,.2f}"])
    total = sizes[""]
    blocks = [sizes[block] for names in modules for block in names]
    rest_parameters = total.parameters - sum(size.parameters for size in blocks)
    rest_gmacs = total.gmacs - sum(size.gmacs for size in blocks)
    rows.append(["stem, head, …", "", "", "", "", f"{rest_parameters:,}", f"{rest_gmacs * 1e3:,.2f}"])
    kinds = f"{len(mod)} MoD" + (f", {len(skipped)} skipped" if skipped else "")
    rows.append(["total", "", kinds, "", "", f"{total.parameters:,}", f"{total.gmacs * 1e3:,.2f}"])
    if paper := paper_rows().get(name):
        millions, mmacs = f"{paper.parameters_m:.2f} M", f"{paper.gmacs_ptflops * 1e3:,.0f}"
        rows.append([f"the paper's ({paper.dataset})", "", "", "", "", millions, mmacs])
        notes.append(
            f"The paper: {paper.accuracy_pct:.2f} % {paper.measure} on {paper.dataset}, {paper.pixels} pixels; its "
            "MACs include norms, activations and pooling."
        )
    return TextTable(name, ["block", "module", "kind", "C", "k", "parameters", "MMACs"], rows, notes)


def _with_others(modules: list[list[str]], others: list[str], model: nn.Module) -> list[list[str]]:
    """Add skipped blocks to the module of their siblings. Parts of larger blocks get a line of their own."""
    order = [name for name, _ in model.named_modules()]
    modules = [list(names) for names in modules]
    listed = {name for names in modules for name in names}
    for name in others:
        if name not in listed:
            parent = name.rpartition(".")[0]
            siblings = [names for names in modules if any(block.rpartition(".")[0] == parent for block in names)]
            if siblings:
                siblings[-1].append(name)
                siblings[-1].sort(key=order.index)
            else:
                modules.append([name])
    return modules

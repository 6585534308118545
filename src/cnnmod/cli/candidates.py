"""networks_to_compare: a baseline and MoD networks, from what `cnnmod compare` names."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from cnnmod.cli.app import opened, sizes_of
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import convert_, mod_blocks
from cnnmod.method.copying import copied
from cnnmod.method.structure import read_structure
from cnnmod.method.trace import example_for
from cnnmod.networks import build, build_mod
from cnnmod.networks.from_file import build_dense
from cnnmod.networks.own import is_checkpoint
from cnnmod.networks.paper import paper_rows
from cnnmod.networks.registry import takes_config
from cnnmod.records.changes import read_change


class Candidate(NamedTuple):
    """A MoD network to time, and its dense form if there is one. Both have a name."""

    name: str
    model: nn.Module
    dense_name: str
    dense: nn.Module | None


def networks_to_compare(
    names: Sequence[str],
    network: str | None,
    weights: Path | None,
    against: str | None,
    changes: Sequence[str],
    size: tuple[int, ...],
) -> tuple[dict[str, nn.Module], Tensor]:
    """Return the networks by name, the baseline first, and an image (1, C, H, W) on the meta device.

    Args:
        names: Networks and checkpoints. Dense networks are converted.
        network: The value of `--network`: a network if there are no names, or the factory of the checkpoints.
        weights: The value of `--weights`.
        against: The name of the baseline. `None` uses the dense form of the first network, or the paper's counterpart.
        changes: Changes of `MoDConfig`.
        size: The value of `--size`.

    Raises:
        OSError: As `open_network`.
        ValueError: If a network is named twice, `weights` is given for several networks, a checkpoint has no MoD
            blocks, the config of a network that is already converted is changed, or a MoD network has no baseline.
    """
    titles = [*names] or [str(network)]
    if weights is not None and len(titles) > 1:
        raise ValueError(f"--weights is for one network, not for {', '.join(titles)}")
    if names and network is not None and not any(map(is_checkpoint, names)):
        raise ValueError(f"--network {network} is for checkpoints, and {', '.join(names)} is none; name one network")
    config = MoDConfig.from_dict(dict(map(read_change, changes)))
    baseline = None if against is None else build(against)
    candidates: list[Candidate] = []
    for title in titles:
        if takes_config(title) and weights is None:
            found = Candidate(title, build_mod(title, config) if changes else build(title), "", None)
        else:
            found = _candidate(title, network if is_checkpoint(title) or not names else None, weights, config, size)
            if changes and (is_checkpoint(title) or found.dense is None):
                raise ValueError(f"--set cannot change {title}, which already has MoD blocks")
        candidates.append(found._replace(name=" ".join((found.name, *changes))))
    first = candidates[0]
    if against is None:
        if first.dense is not None:
            against, baseline = first.dense_name, first.dense
        else:
            against = _counterpart(titles[0])
            baseline = build(against)
    named = [against, *(candidate.name for candidate in candidates)]
    if len({*named}) < len(named):
        raise ValueError(f"a network is named twice: {', '.join([*titles, against])} (the last is the baseline)")
    assert baseline is not None
    models = {against: baseline} | {candidate.name: candidate.model for candidate in candidates}
    return models, example_for(baseline, sizes_of(titles[0], size)[0])


def _candidate(
    title: str, network: str | None, weights: Path | None, config: MoDConfig, size: tuple[int, ...]
) -> Candidate:
    model, example = opened(None if title == network else title, network, weights, size)
    if is_checkpoint(title):
        if not mod_blocks(model):
            raise ValueError(f"{title} has no MoD blocks; name the checkpoint of a MoD network")
        dense = build_dense(title, network)
        name = read_structure(title).factory or "dense"
        return Candidate(title, model, name, None if mod_blocks(dense) else dense)
    if mod_blocks(model):
        return Candidate(title, model, "", None)
    return Candidate(f"{title} MoD", convert_(copied(model), config, example=example), title, model)


def _counterpart(name: str) -> str:
    row = paper_rows().get(name)
    if row is None or row.baseline is None:
        raise ValueError(f"{name} has MoD blocks, and its dense network is not known; name it with --against")
    return row.baseline

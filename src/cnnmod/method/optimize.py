"""Parameter groups for an optimizer, with a smaller learning rate for channel selectors."""

from typing import Any

from torch import nn

from cnnmod.method.blocks import MoDBlock


def param_groups(
    model: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.0,
    decay_norms: bool = True,
    selector_lr_scale: float = 0.005,
    mod_lr_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Return the parameter groups of a network for an optimizer of torch or timm (ours).

    The gradients of a channel selector are small. With Adam, LAMB and Muon, the step size does not depend on the size
    of the gradient. With the full learning rate, all hidden units of a selector become negative within a few hundred
    steps. Their gradients after the ReLU are then zero, and all images get the same selection. Therefore selectors
    have a smaller learning rate. For SGD, pass `selector_lr_scale=1.0`.

    Args:
        model: A network with or without MoD blocks. Frozen parameters are in no group.
        lr: The learning rate.
        weight_decay: The weight decay.
        decay_norms: Whether weight decay applies to norms, biases and other parameters with one dimension. As in timm,
            it never applies to the names that `model.no_weight_decay()` returns.
        selector_lr_scale: The factor of the learning rate of channel selectors.
        mod_lr_scale: The factor of the learning rate of all other parameters of MoD blocks. With more than 1, the new
            blocks of a trained network learn faster than its other weights. The gains of `identity_start` then have no
            weight decay, which would pull them back to 0.

    Returns:
        One to five groups. All optimizers use the key `lr` of a group. With the key `use_fallback`, timm's Muon
        trains the selectors with AdamW.

    Raises:
        ValueError: If a number is negative, or no parameter requires a gradient.

    Examples:
        >>> import timm, torch, cnnmod
        >>> model = cnnmod.convert_(timm.create_model("resnet18"))
        >>> optimizer = torch.optim.AdamW(cnnmod.param_groups(model, lr=1e-3, weight_decay=0.05))
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.001, 5e-06]
    """
    scales = {"selector_lr_scale": selector_lr_scale, "mod_lr_scale": mod_lr_scale}
    for name, value in {"lr": lr, "weight_decay": weight_decay, **scales}.items():
        if not value >= 0:
            raise ValueError(f"{name} must be ≥ 0, not {value}")
    blocks = [module for module in model.modules() if isinstance(module, MoDBlock)]
    selectors = {
        id(parameter)
        for block in blocks
        if (selector := block._modules.get("selector")) is not None
        for parameter in selector.parameters()
    }
    new = set() if mod_lr_scale == 1 else {id(parameter) for block in blocks for parameter in block.parameters()}
    gains = {id(block.gain_K) for block in blocks} & new
    groups: dict[str, dict[str, Any]] = {
        "others": {"lr": lr, "weight_decay": weight_decay},
        "norms": {"lr": lr, "weight_decay": 0.0},
        "blocks": {"lr": lr * mod_lr_scale, "weight_decay": weight_decay},
        "norms of blocks": {"lr": lr * mod_lr_scale, "weight_decay": 0.0},
        "selectors": {"lr": lr * selector_lr_scale, "weight_decay": weight_decay, "use_fallback": True},
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    undecayed = set(getattr(model, "no_weight_decay", set)())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_norm = parameter.ndim <= 1 or name.endswith(".bias")
        no_decay = name in undecayed or (is_norm and not decay_norms) or id(parameter) in gains
        if id(parameter) in selectors:
            group = "selectors"
        elif id(parameter) in new:
            group = "norms of blocks" if no_decay else "blocks"
        else:
            group = "norms" if no_decay else "others"
        members[group].append(parameter)
    used = [{"params": members[name], **group} for name, group in groups.items() if members[name]]
    if not used:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient")
    return used

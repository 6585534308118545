"""tuning_configs: the MoD blocks that `tune` tries."""

from collections.abc import Sequence

from cnnmod.method.config import MoDConfig


def tuning_configs(c: Sequence[int] = ()) -> list[MoDConfig]:
    """Return the paper's form, which starts as the identity, and the narrow form (ours) for each divisor c.

    Args:
        c: The divisors. Without any, these are the paper's c of the network and 16 for the paper's form, and 2 and 4
            for the narrow form.

    Examples:
        >>> [(config.c, config.fuse_to) for config in tuning_configs()]
        [(None, 'first'), (16, 'first'), (2, 'all'), (4, 'all')]
        >>> [(config.c, config.fuse_to) for config in tuning_configs([8])]
        [(8, 'first'), (8, 'all')]
    """
    paper = [MoDConfig(c=divisor, identity_start=True) for divisor in c or (None, 16)]
    return [*paper, *(MoDConfig.narrow(divisor) for divisor in c or (2, 4))]

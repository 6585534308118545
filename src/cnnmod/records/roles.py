"""The roles of networks in comparisons, as result files name them."""

from typing import Literal

Role = Literal["baseline", "mod", "control"]

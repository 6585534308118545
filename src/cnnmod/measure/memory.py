"""Peak memory of one run."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory_mib(run: Callable[[], object]) -> float:
    """The most memory that tensors held at once during one run, its weights included, in MiB.

    Temporary memory inside an operator does not count.

    Examples:
        >>> import torch
        >>> x = torch.zeros(2**18)  # 1 MiB
        >>> peak_memory_mib(lambda: x + 1 + 1)
        3.0
    """
    with _Storages() as storages:
        run()
    return (sum(storages.before.values()) + storages.peak_bytes) / 2**20


class _Storages(TorchDispatchMode):
    """Follows tensors' memory.

    Attributes:
        before: Storage → bytes, of those that operators read without one having made them: weights, images.
        peak_bytes: The most that storages made by operators held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[StorageWeakRef, int] = {}
        self.peak_bytes = 0
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.before |= {storage: size for storage, size in _storages((args, kwargs)) if storage not in self._made}
        result = func(*args, **(kwargs or {}))
        self._made = {storage: size for storage, size in self._made.items() if not storage.expired()}
        self._made |= {storage: size for storage, size in _storages(result) if storage not in self.before}
        self.peak_bytes = max(self.peak_bytes, sum(self._made.values()))
        return result


def _storages(tree: Any) -> list[tuple[StorageWeakRef, int]]:
    storages = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_meta]
    return [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]

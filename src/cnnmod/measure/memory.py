"""The peak memory of one run."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory_mib(run: Callable[[], object]) -> float:
    """Return the peak memory of tensors during one run in MiB, including weights.

    Temporary memory inside an operator is not counted.

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
    """Track the memory of tensors.

    Attributes:
        before: The bytes of each storage that existed before the run, such as weights and images. Operators read these
            storages, but no operator created them.
        peak_bytes: The largest number of bytes that storages created by operators held at the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[StorageWeakRef, int] = {}
        self.peak_bytes = 0
        self._created: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.before |= {storage: size for storage, size in _storages((args, kwargs)) if storage not in self._created}
        result = func(*args, **(kwargs or {}))
        self._created = {storage: size for storage, size in self._created.items() if not storage.expired()}
        self._created |= {storage: size for storage, size in _storages(result) if storage not in self.before}
        self.peak_bytes = max(self.peak_bytes, sum(self._created.values()))
        return result


def _storages(tree: Any) -> list[tuple[StorageWeakRef, int]]:
    storages = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf.is_meta]
    return [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]

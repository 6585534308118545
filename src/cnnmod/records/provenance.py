"""Provenance: when, where and with which software a result was measured."""

import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_PACKAGES = ("cnnmod", "torch", "timm", "torchvision", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """When, where and with which software a result was measured.

    Attributes:
        created: The time in UTC, ISO 8601.
        commit: The commit of cnnmod's repository, with the suffix `-dirty` if the package's source had uncommitted
            changes; `None` for an installed package.
        versions: The versions of Python and of the packages, by name; on a GPU also of CUDA, cuDNN and the driver.
        processor: The CPU's name.
        device: The device of the networks: `"cpu"`, or the GPU's name.
        threads: The number of torch's threads.
    """

    created: str
    commit: str | None
    versions: dict[str, str]
    processor: str
    device: str
    threads: int

    @property
    def machine(self) -> str:
        """The device, the CPU and the number of threads, as text."""
        return f"{self.device} ({self.processor}), {threads_text(self.threads)}"

    @classmethod
    def now(cls, device: "torch.device", threads: int) -> "Provenance":
        """Return the provenance of a result of this process."""
        import torch

        return cls(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            commit=_commit(),
            versions={"python": platform.python_version()}
            | {name: metadata.version(name) for name in _PACKAGES if _installed(name)}
            | (_gpu_versions() if device.type == "cuda" else {}),
            processor=_processor(),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            threads=threads,
        )


def threads_text(count: int) -> str:
    """Return a number of threads as text."""
    return f"{count} {'thread' if count == 1 else 'threads'}"


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _gpu_versions() -> dict[str, str]:
    """Return the versions of CUDA, cuDNN and the driver, as far as they are known."""
    import torch

    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        driver = []
    found = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": next(iter(driver), None)}
    return {name: str(version) for name, version in found.items() if version is not None}


def _commit() -> str | None:
    """Return the commit of the repository that contains this file, or `None`."""
    source = Path(__file__).resolve()
    root = next((folder for folder in source.parents if (folder / ".git").exists()), None)
    if root is None or not source.is_relative_to(root / "src" / "cnnmod"):
        return None
    git = ["git", "-C", str(root)]
    try:
        commit, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "src"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

"""Resume runs with broken files."""

import resource
import shutil
from pathlib import Path

import psutil
import pytest

from cnnmod.cli import run
from fuzz.mutate import mutated, mutated_json
from fuzz.outcome import SEEDS, outcome, trial

SHORT = ["epochs=1", "warmup_epochs=0", "train_images=64", "batch_size=32", "validation_fraction=0.2"]

pytestmark = pytest.mark.filterwarnings("default")  # warnings are not errors for a user


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(["train", "digits", "--data", "digits", "--out", str(folder), "--row", "baseline", "--set", *SHORT])
    return folder


@pytest.fixture(autouse=True)
def _little_memory():
    """Limit the memory, since a mutated recipe can have any number of pixels or channels."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (4 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("state.safetensors", mutated),
        ("run.json", mutated_json),
        ("metrics.jsonl", mutated),
        ("result.json", mutated_json),
    ],
)
def test_broken_file_is_resumed_or_refused(name, change, seeds, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in seeds:
        with trial(seed, tmp_path / "runs") as runs:
            folder = Path(shutil.copytree(finished, runs / "run"))
            if name != "result.json":
                (folder / "result.json").unlink()
            path = folder / name
            path.write_bytes(change(path.read_bytes(), seed))
            whole = path.read_bytes() == (finished / name).read_bytes()
            code = outcome(["train", "--resume", str(folder)], capsys, tmp_path, but=folder)
            if name == "metrics.jsonl" or whole:
                assert code == 0
            assert not list(folder.glob(".*"))


@pytest.mark.parametrize("seeds", SEEDS)
def test_broken_lock_file_is_handled(seeds, finished, tmp_path, capsys):
    for seed in seeds:
        with trial(seed, tmp_path / "runs") as runs:
            folder = Path(shutil.copytree(finished, runs / "run"))
            (folder / ".lock").write_bytes(mutated(b"123 host kernel", seed))
            outcome(["train", "--resume", str(folder)], capsys, tmp_path, but=folder)

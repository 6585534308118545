"""Each package imports only packages that cnnmod or one extra declares, and each extra alone runs its commands."""

import ast
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml")
from cnnmod.records.install import EXTRAS
from extras import ROOT, declared, owners, run_with_extra

# The extra that installs what a package of cnnmod imports. `None` stands for cnnmod without extras.
EXTRA = {
    "records": None,
    "method": None,
    "measure": None,
    "networks": "networks",
    "training": "train",
    "tuning": "train",
    "deploy": "deploy",
    "report": "report",
    "cli": "report",
    "demo.py": "train",
    "__main__.py": None,
    "__init__.py": None,
}
NOT_DECLARED = {
    "IPython",  # imported in notebooks only, which it runs
    "cuda",  # cuda-bindings, which the wheels of torch for GPUs require
    "pandas",  # optional: to_pandas names it
}


@pytest.mark.parametrize("package", sorted(path.name for path in (ROOT / "src" / "cnnmod").iterdir()))
def test_every_import_is_declared(package):
    path = ROOT / "src" / "cnnmod" / package
    files = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    if not files:
        pytest.skip("no Python files")
    names = declared(EXTRA[package])
    for file in files:
        for module in sorted(_imported(file) - NOT_DECLARED):
            assert owners().get(module, {module}) & names, (
                f"{file} imports {module}, which {EXTRA[package] or 'cnnmod'} does not declare"
            )


def _imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"cnnmod"}


def test_error_messages_name_the_extra_that_installs_a_package():
    for extra, modules in EXTRAS.items():
        for module in modules:
            assert owners().get(module, {module}) & declared(extra), f"{extra} does not install {module}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "args"),
    [
        ("report", ["info", "resnet18_mod"]),
        ("report", ["compare", "resnet18_mod", "--size", "32", "--rounds", "2"]),
        ("report", ["plot", "--out", "figure.png"]),
    ],
)
def test_report_alone_gives_a_command_line(extra, args, tmp_path):
    done = run_with_extra(extra, args, tmp_path)
    assert (done.returncode, done.stderr.strip()) == (0, "") or "━" in done.stderr, done.stderr


@pytest.fixture
def run_folder(tmp_path):
    """The folder of a run, as `cnnmod train` writes it, with a small network."""
    from cnnmod.method.checkpoint import save
    from cnnmod.networks import build
    from cnnmod.training.folder import Run
    from cnnmod.training.recipes import recipe

    name, layers = "resnet18_cifar_mod", {"layers": [1, 2, 1, 1], "channels": [8, 8, 16, 16], "num_classes": 2}
    folder = tmp_path / "run"
    folder.mkdir()
    save(build(name, **layers), folder / "best.safetensors", factory=f"cnnmod/{name}", factory_args=layers)
    run = Run(recipe=recipe("cifar10"), row="mod", seed=0, data="data")
    (folder / "run.json").write_text(json.dumps({"run": run.to_dict(), "classes": ["cat", "dog"]}))
    return folder


@pytest.mark.slow
def test_report_alone_shows_a_checkpoint_in_a_run_folder(run_folder, tmp_path):
    done = run_with_extra("report", ["info", str(run_folder / "best.safetensors")], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_report_and_deploy_export_a_checkpoint_in_a_run_folder(run_folder, tmp_path):
    args = ["export", str(run_folder / "best.safetensors"), "--out", "network.onnx", "--json"]
    done = run_with_extra("report,deploy", args, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metadata"]["class_names"] == '["cat", "dog"]'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "args", "missing"),
    [
        ("report", ["train", "digits", "--data", "digits", "--out", "run"], "'.[train]'"),
        ("report", ["export", "resnet18_cifar_mod", "--out", "network.onnx"], "'.[deploy]'"),
        ("train", ["info", "resnet18_mod"], "'.[report]'"),
        (None, ["info", "resnet18_mod"], "'.[report]'"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(extra, args, missing, tmp_path):
    done = run_with_extra(extra, args, tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert missing in line
    assert "checkout of cnnmod" in line
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "code"),
    [
        (None, "import cnnmod; cnnmod.convert_, cnnmod.export, cnnmod.compare"),
        ("networks", "import cnnmod.networks; cnnmod.networks.build('resnet18_mod', num_classes=3)"),
        (
            "train",
            "import cnnmod.training as t; from cnnmod.training.data import open_data;"
            "r = t.recipe('digits', ['epochs=1']); d = open_data('digits', r);"
            "from pathlib import Path;"
            "t.run_training(t.Run(recipe=r, row='mod', seed=0, data='digits'), Path('run'), d)",
        ),
        (
            "deploy",
            "import cnnmod, torch; from torch import nn;"
            "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).eval();"
            "x = torch.rand(2, 3, 8, 8); cnnmod.export(net, x, 'net.onnx'); cnnmod.export(net, x, 'net.xml')",
        ),
    ],
)
def test_each_extra_alone_runs_its_package(extra, code, tmp_path):
    done = run_with_extra(extra, ["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_help_of_each_subcommand_imports_no_network_library(tmp_path):
    code = (
        "import sys; from cnnmod.cli import run\n"
        "for name in 'demo info tune compare train evaluate inspect predict export plot report'.split():\n"
        "    try: run([name, '--help'])\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
        "print(*{'torch', 'timm', 'matplotlib', 'numpy'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = run_with_extra("report", ["-c", code], tmp_path)
    assert (done.returncode, done.stderr.strip()) == (0, "")

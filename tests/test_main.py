import subprocess
import sys
from importlib.metadata import version

import pytest

from cnnmod.__main__ import main


def test_missing_extra_packages_print_an_install_command(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("cnnmod.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.setattr("sys.argv", ["cnnmod", "info", "resnet50_mod"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "cnnmod: this needs tyro; in a checkout of cnnmod, run: pip install '.[report]'\n"
    )


@pytest.mark.slow
def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "cnnmod", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("demo", "info", "compare", "plot", "train", "evaluate"))


def test_version_works_without_the_command_line_packages(monkeypatch, capsys):
    """The command line itself cannot be imported here."""
    monkeypatch.setitem(sys.modules, "cnnmod.cli", None)
    monkeypatch.setattr("sys.argv", ["cnnmod", "--version"])
    main()
    assert capsys.readouterr().out == f"cnnmod {version('cnnmod')}\n"


def test_help_imports_neither_torch_nor_network_libraries_nor_matplotlib():
    code = (
        "import sys; sys.argv = ['cnnmod', '--help']\n"
        "from cnnmod.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'timm', 'matplotlib', 'numpy'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    order = "{demo,info,tune,train,evaluate,inspect,predict,compare,plot,export,report}"
    assert order in done.stdout

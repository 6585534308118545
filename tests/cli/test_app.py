import pytest

from cnnmod.cli import run
from cnnmod.cli.app import print_text


@pytest.mark.parametrize("arguments", [["info"], ["compare", "--bacth", "1"], ["cmpare"], []], ids=" ".join)
def test_misspelled_arguments_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["demo", "info", "compare", "plot", "train", "evaluate", "inspect", "export"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: cnnmod {command}" in capsys.readouterr().out


def test_long_path_with_brackets_is_printed_unchanged(capsys):
    text = f"Written to /{'a/' * 80}[bold]b.png"
    print_text(text)
    assert capsys.readouterr().out == f"{text}\n"

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


def test_help_lists_subcommands_with_one_sentence_each(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["--help"])
    assert stop.value.code == 0
    shown = " ".join(word for word in capsys.readouterr().out.split() if word != "│")
    assert "• predict Draw the predictions of a network that `cnnmod train` wrote: colored classes" in shown
    assert "or the five most probable classes. • compare Time MoD networks" in shown
    assert "• info Show a network block by block: C, k, parameters, MACs, and the paper's figures. • tune" in shown
    assert "Example" not in shown


def test_help_of_a_subcommand_has_the_whole_text(capsys):
    with pytest.raises(SystemExit):
        run(["info", "--help"])
    assert "and why the others stay." in " ".join(capsys.readouterr().out.split())


def test_long_path_with_brackets_is_printed_unchanged(capsys):
    text = f"Written to /{'a/' * 80}[bold]b.png"
    print_text(text)
    assert capsys.readouterr().out == f"{text}\n"

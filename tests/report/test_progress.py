import pytest
import rich.console

from cnnmod.report.progress import progress_bars


def test_bars_are_written_to_standard_error(capsys):
    with progress_bars() as progress:
        for done in (1, 2):
            progress("counting", done, 2)
        progress("more", 1, 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "counting" in err
    assert "2/2" in err


def test_bars_are_hidden_after_an_error(capsys):
    def fail():
        with progress_bars() as progress:
            progress("counting", 1, 2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert capsys.readouterr() == ("", "")


def test_bars_are_one_updated_output_in_a_notebook(monkeypatch, capsys):
    """Without ipywidgets, rich would warn, and show nothing until the end."""
    display = pytest.importorskip("IPython.display", reason="IPython is not installed")
    shown = []

    class Handle:
        def update(self, output, raw):
            shown.append(output["text/plain"])

    def show(output, raw, display_id):
        shown.append(output["text/plain"])
        return Handle()

    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr(display, "display", show)
    with progress_bars() as progress:
        progress("counting", 1, 2)
        progress("counting", 2, 2)
        progress("more", 1, 1)
    assert "1/2" in shown[0]
    first, second = shown[-1].splitlines()
    assert first.startswith("counting")
    assert "2/2" in first
    assert second.startswith("more")
    assert capsys.readouterr() == ("", "")

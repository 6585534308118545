import pytest

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

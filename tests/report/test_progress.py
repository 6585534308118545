from cnnmod.report.progress import progress_bars


def test_writes_to_standard_error_only(capsys):
    with progress_bars() as progress:
        for done in (1, 2):
            progress("counting", done, 2)
        progress("more", 1, 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "counting" in err
    assert "2/2" in err

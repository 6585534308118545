import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from cnnmod.report.image import image_format, write_figure


def test_suffix_sets_the_format(tmp_path):
    figure = Figure(figsize=(2, 1))
    write_figure(figure, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[:2] == (120, 240)
    write_figure(figure, tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert image_format("a/b.svg") == "svg"


@pytest.mark.parametrize("name", ["figure", "figure.bmpx"])
def test_unknown_suffix_raises(name, tmp_path):
    with pytest.raises(ValueError, match=rf"suffix of a figure must be one of \.eps, .*, not '.*{name}'"):
        write_figure(Figure(), tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_figure(Figure(), tmp_path / "nowhere" / "a.png")

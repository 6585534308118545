from dataclasses import replace
from pathlib import Path

from cnnmod import ExportReport
from cnnmod.deploy import Agreement

REPORT = ExportReport(
    path=Path("net.onnx"),
    format="onnx",
    form="OnnxForm",
    opset=20,
    versions={"torch": "2.14.1", "onnx": "1.23.2"},
    operators={"Conv": 32, "TopK": 4},
    file_bytes=21_880_000,
    weight_bytes=21_840_000,
    largest_error=3.6e-7,
    selection_agreement=1.0,
    tied_agreement=0.9975,
    int8=None,
)


def test_prints_as_a_table():
    assert str(REPORT) == repr(REPORT)
    assert repr(REPORT).splitlines() == [
        "ExportReport: net.onnx",
        "size           21.88 MB (float32 weights: 21.84)",
        "MoD blocks     as OnnxForm",
        "against eager  largest error 3.6e-07 of the largest output; selected channels equal 100.00%, with ties 99.75%",
        "versions       opset 20, torch 2.14.1, onnx 1.23.2",
        "operators      32 Conv, 4 TopK",
    ]


def test_networks_that_do_not_select_have_no_agreement_of_selections():
    agreement = Agreement(images=8, top1=0.75, selection=1.0, selection_in_order=1.0)
    report = replace(REPORT, selection_agreement=None, tied_agreement=None, int8=agreement)
    lines = repr(report).splitlines()
    assert lines[3:5] == [
        "against eager  before INT8, largest error 3.6e-07 of the largest output",
        "in INT8        on 8 images: the same class for 75.00%",
    ]
    assert "in INT8        on 8 images" in repr(replace(report, int8=replace(agreement, top1=None))).splitlines()


def test_mod_blocks_and_opset_are_optional():
    lines = repr(replace(REPORT, form=None, opset=None)).splitlines()
    assert lines[2] == "MoD blocks     none"
    assert lines[4] == "versions       torch 2.14.1, onnx 1.23.2"


def test_int8_line_shows_the_agreement():
    int8 = Agreement(images=256, top1=0.992, selection=0.981, selection_in_order=0.9)
    lines = repr(replace(REPORT, int8=int8)).splitlines()
    assert "  before INT8, largest error 3.6e-07" in lines[3]
    equal = "selected channels equal 98.10%"
    assert lines[4] == f"in INT8        on 256 images: the same class for 99.20%, {equal}"
    no_classifier = repr(replace(REPORT, int8=replace(int8, top1=None)))
    assert no_classifier.splitlines()[4] == f"in INT8        on 256 images: {equal}"


def test_notebooks_show_an_escaped_table():
    html = replace(REPORT, path=Path("<b>.onnx"), operators={"<lambda>": 1})._repr_html_()
    assert html.startswith("<table>\n<caption>ExportReport: &lt;b&gt;.onnx</caption>")
    assert "1 &lt;lambda&gt;" in html

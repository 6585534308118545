import json
from pathlib import Path

import pytest

from cnnmod.cli import run

COMPARISON = Path(__file__).parents[2] / "benchmarks" / "results" / "resnets-runtimes.json"


def test_report_prints_the_verdict_of_the_page(tmp_path, capsys):
    run(["report", str(COMPARISON), "--out", str(tmp_path / "report.html"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(tmp_path / "report.html")
    assert printed["verdict"] in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a report needs at least one of these"),
        (["missing.json"], "the file missing.json does not exist"),
        ([str(COMPARISON), "--out", "report.pdf"], "the suffix must be .html, not 'report.pdf'"),
    ],
    ids=["no source", "missing source", "suffix"],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exited:
        run(["report", *arguments])
    assert exited.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

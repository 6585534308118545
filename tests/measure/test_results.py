import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cnnmod.measure.results import (
    SCHEMA,
    Comparison,
    Measurement,
    Row,
    interquartile_range,
    read_result,
    write_result,
)
from cnnmod.records.provenance import Provenance

COMMITTED = sorted(Path(__file__).parents[2].glob("benchmarks/results/*.json"))
RESULTS = [path for path in COMMITTED if json.loads(path.read_text(encoding="utf-8")).get("schema") == SCHEMA]


def make(**changes):
    def row(name, role, times_ms):
        found = Measurement(runtime="eager", batch_size=1, times_ms=times_ms, peak_memory_mib=1.0)
        return Row(name=name, role=role, parameters=1, gmacs=1.0, accuracy_pct=None, measurements=[found])

    fields = {
        "step": "inference",
        "image_shape": [3, 8, 8],
        "dtype": "float32",
        "channels_last": False,
        "accuracy_source": None,
        "rows": [
            row("base", "baseline", [10.0, 20.0, 12.0]),
            row("net", "mod", [8.0, 16.0, 11.0]),
            row("net control", "control", [5.0, 16.0, 10.0]),
        ],
        "provenance": Provenance.now(torch.device("cpu"), 2),
    }
    return Comparison(**(fields | changes))


def test_ratios_are_medians_over_rounds():
    comparison = make()
    base, mod, _ = comparison.rows
    assert comparison.conditions == [("eager", 1)]
    assert comparison.speedups(mod, "eager", 1) == [1.25, 1.25, pytest.approx(12 / 11)]
    assert comparison.speedup(mod, "eager", 1) == 1.25
    assert comparison.speedup(base, "eager", 1) == 1
    assert comparison.mod_tax(mod, "eager", 1) == pytest.approx(0.1)
    assert base.measurements[0].median_ms == 12
    assert base.measurements[0].iqr_ms == 5


def test_interquartile_range():
    assert interquartile_range([1, 2, 3, 4, 5]) == 2
    assert interquartile_range([7]) == 0


def test_round_trip(tmp_path):
    write_result(make(), tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == make(provenance=read_result(tmp_path / "result.json").provenance)


def test_prints_as_a_table_of_medians():
    provenance = replace(Provenance.now(torch.device("cpu"), 2), processor="Z80")
    comparison = make(provenance=provenance)
    assert str(comparison) == repr(comparison)
    assert repr(comparison).splitlines() == [
        "Comparison: inference, 3×8×8, float32, channels first",
        "network      runtime  batch    ms  speed-up  MoD tax %",
        "base         eager        1  12.0      1.00",
        "net          eager        1  11.0      1.25      +10.0",
        "net control  eager        1  10.0      1.25",
        "cpu (Z80), 2 threads; medians of 3 rounds",
    ]


def test_prints_one_line_per_network_and_condition():
    comparison = read_result(next(path for path in RESULTS if path.name == "resnets-runtimes.json"))
    lines = repr(comparison).splitlines()
    assert len(lines) == 3 + len(comparison.rows) * len(comparison.conditions)
    assert max(map(len, lines)) <= 120


def test_notebooks_show_an_escaped_table():
    rows = [replace(row, name=f"<b>{row.name}") for row in make().rows]
    html = make(rows=rows)._repr_html_()
    assert html.startswith("<table>\n<caption>Comparison: inference, 3×8×8, float32, channels first</caption>")
    assert "<b>" not in html
    assert "&lt;b&gt;net control" in html
    assert '<td style="text-align: right">+10.0</td>' in html


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "the first row is not the baseline"),
        (make().rows[:2], "the row 'net control' is missing"),
        ([replace(make().rows[0], measurements=[])], "'base' has no measurements"),
    ],
)
def test_invalid_comparison_prints_the_reason(rows, fault):
    assert repr(make(rows=rows)).splitlines()[1] == f"not a valid comparison: {fault}"
    assert "not a valid comparison" in make(rows=rows)._repr_html_()


def spoil(change):
    values = {"schema": "cnnmod.comparison/1", **json.loads(json.dumps(make(), default=vars))}
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "is not valid JSON"),
        ("[]", "has the schema None"),
        ('{"schema": "cnnmod.comparison/9"}', "has the schema 'cnnmod.comparison/9'; this version of cnnmod reads"),
        (spoil(lambda v: v.pop("dtype")), "fields missing or unknown: dtype"),
        (spoil(lambda v: v.update(extra=1)), "fields missing or unknown: extra"),
        (spoil(lambda v: v.update(step="walk")), "step must be one of 'inference', 'training', not 'walk'"),
        (spoil(lambda v: v.update(rows={})), "rows must be a list, not {}"),
        (spoil(lambda v: v["rows"][1].update(parameters="many")), r"rows\[1\]: parameters must be int, not 'many'"),
        (
            spoil(lambda v: v["rows"][0]["measurements"][0].update(times_ms=[None])),
            r"times_ms\[0\] must be float, not None",
        ),
        (spoil(lambda v: v["provenance"].update(commit=3)), r"provenance: commit must be str \| None, not 3"),
        (spoil(lambda v: v.update(rows=[])), "result.json: the first row is not the baseline"),
        (spoil(lambda v: v["rows"].pop(0)), "result.json: the first row is not the baseline"),
        (spoil(lambda v: v["rows"].pop()), "the row 'net control' is missing"),
        (spoil(lambda v: v["rows"].append(v["rows"][1])), "two rows have the name 'net'"),
        (
            spoil(lambda v: v["rows"][1].update(measurements=[])),
            "'net' was not measured under the same conditions as 'ba",
        ),
        (spoil(lambda v: [row.update(measurements=[]) for row in v["rows"]]), "'base' has no measurements"),
        (
            spoil(lambda v: v["rows"][2]["measurements"][0]["times_ms"].pop()),
            "'net control' must have as many times_ms as",
        ),
        (spoil(lambda v: v["rows"][0]["measurements"][0].update(times_ms=[])), "'base' must have as many times_ms"),
        (
            spoil(lambda v: v["rows"][1]["measurements"][0]["times_ms"].__setitem__(0, 0)),
            "'net' must have .* all above 0",
        ),
    ],
)
def test_invalid_result_files_raise(tmp_path, text, message):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_result(path)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_committed_results_are_read_and_have_three_rows(path):
    comparison = read_result(path)
    assert comparison.provenance.commit
    assert [row.role for row in comparison.rows[:3]] == ["baseline", "mod", "control"]


def test_unknown_row_names_the_nearest():
    with pytest.raises(ValueError, match=r"^the comparison has no row 'nett'; did you mean 'net'\?$"):
        make().row("nett")


def test_ratios_that_spread_more_than_their_distance_from_1_are_uncertain():
    def with_times(times_ms):
        rows = make().rows
        changed = replace(rows[1], measurements=[replace(rows[1].measurements[0], times_ms=times_ms)])
        return make(rows=[rows[0], changed, rows[2]])

    certain = with_times([5.0, 10.0, 6.0])
    assert "the speed-up of net, eager, batch 1" not in certain.uncertain_ratios()
    assert "the speed-up of net, eager, batch 1" in with_times([10.0, 10.0, 18.0]).uncertain_ratios()


def test_comparison_as_dict_and_data_frame():
    comparison = make()
    assert json.loads(json.dumps(comparison.to_dict()))["rows"][1]["name"] == "net"
    frame = comparison.to_pandas()
    assert frame["network"].tolist() == ["base", "net", "net control"]
    assert frame["speedup"].tolist() == [comparison.speedup(row, "eager", 1) for row in comparison.rows]

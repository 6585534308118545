"""Render the tables of README.md and docs from the committed result files.

A table is between the lines `<!-- table: FILE … -->` and `<!-- end -->`. The files are in benchmarks/results. The
marker decides what is rendered:

    choices TUNED RATES       what each choice of `tune` saves and costs
    FILE …                    one table for each comparison; one table for all files of accuracies
    matrix FILE …             one table for all comparisons, with a column for each runtime
    paper FILE                one comparison, with the paper's figures
    prices PAYS PRICES        what each arm of an experiment gains over a dense network that takes the same time
    returns PAYS PRICES       the return of the arms of an experiment
    summary NETWORK FILE …    one network, with a row for each runtime

A FILE can be a pattern, such as `gpu-*.json`, which stands for all files that match.

    python benchmarks/render.py           # write the tables
    python benchmarks/render.py --check   # print which pages are out of date; exit code 1 if there are any
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from choices_table import choices_table
from finetune_rates_table import finetune_rates_table
from gpu_kernels_table import gpu_kernels_table
from interactions_table import interactions_table
from pays_table import pays_table
from price_list import price_table
from returns_table import returns_table
from tune_times import tune_times_table
from tuned_table import tuned_table

from cnnmod.measure import experiment
from cnnmod.measure.results import Comparison, read_result
from cnnmod.networks.paper import paper_rows
from cnnmod.records.files import write_whole
from cnnmod.report.experiment import experiment_table
from cnnmod.report.table import comparison_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    *(
        ROOT / "docs" / name
        for name in ("results.md", "convert.md", "deploy.md", "train.md", "dense.md", "tune.md", "finetune.md")
    ),
)
_TABLES_OF_TWO = {"choices": choices_table, "prices": price_table, "returns": returns_table}
_TABLE = re.compile(r"(<!-- table: ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(page: str) -> str:
    """Return the page with all tables rendered again."""

    def table(match: re.Match[str]) -> str:
        style, *rest = match[2].split()
        network = rest.pop(0) if style == "summary" else ""
        names = rest if style in ("matrix", "paper", "summary", *_TABLES_OF_TWO) else [style, *rest]
        paths = [path for name in names for path in _files(name)]
        if style == "matrix":
            text = matrix([read_result(path) for path in paths])
        elif style in _TABLES_OF_TWO:
            text = _TABLES_OF_TWO[style](*(json.loads(path.read_text(encoding="utf-8")) for path in paths))
        elif style == "summary":
            text = summary(network, [read_result(path) for path in paths])
        elif style == "paper":
            text = beside_the_papers(read_result(paths[0]))
        elif all(read_schema(path) == experiment.SCHEMA for path in paths):
            text = experiment_table(*map(experiment.read_experiment, paths)).markdown()
        else:
            text = "\n\n".join(map(_of_file, paths))
        return f"{match[1]}{text}\n{match[3]}"

    return _TABLE.sub(table, page)


def _files(name: str) -> list[Path]:
    """Return the result files that match a name or a pattern.

    Raises:
        FileNotFoundError: If there is none.
    """
    paths = sorted((ROOT / "benchmarks" / "results").glob(name))
    if not paths:
        raise FileNotFoundError(f"no file in benchmarks/results matches {name}")
    return paths


def beside_the_papers(comparison: Comparison) -> str:
    """Return a table of the paper's networks: its score, and its parameters, MACs and times next to ours."""
    rows_by_name, baseline = paper_rows(), paper_rows()[comparison.rows[0].name]
    header = ["network", f"{baseline.measure} % (paper)", "params M", "(paper)", "GMACs", "(paper)", "CPU (paper)"]
    header += [f"{runtime}, batch {size}" for runtime, size in comparison.conditions]
    lines = [f"| {' | '.join(header)} |", f"|---{'|---:' * (len(header) - 1)}|"]
    for row in comparison.rows:
        size, gmacs = f"{row.parameters / 1e6:.3f}", f"{row.gmacs:.1f}"
        if row.role == "control":
            cells = ["└ control", "", size, "", gmacs, "", ""]
        else:
            paper = rows_by_name[row.name]
            cells = [row.name, f"{paper.accuracy_pct:.2f}", size, f"{paper.parameters_m:.2f}", gmacs]
            cells += [f"{paper.gmacs_ptflops:.1f}", f"{baseline.cpu_ms / paper.cpu_ms:.2f}"]
        for condition in comparison.conditions:
            tax = f" ({100 * comparison.mod_tax(row, *condition):+.1f} %)" if row.role == "mod" else ""
            cells.append(f"{comparison.speedup(row, *condition):.2f}{tax}")
        lines.append(f"| {' | '.join(cells)} |")
    machine = comparison.provenance
    lines.append(
        f"\nTimes are speed-ups over {comparison.rows[0].name} (MoD tax). The paper's were measured on a laptop, ours "
        f"on {machine.processor}, {machine.threads} threads, torch {machine.versions['torch']}, "
        f"{' × '.join(map(str, comparison.image_shape[1:]))} pixels; medians of "
        f"{len(comparison.rows[0].measurements[0].times_ms)} rounds."
    )
    return "\n".join(lines)


def matrix(comparisons: list[Comparison]) -> str:
    """Return one table of several comparisons: a row for each MoD network and control, a column for each runtime."""
    conditions = [condition for comparison in comparisons for condition in comparison.conditions]
    runtimes = list(dict.fromkeys(runtime for runtime, _ in conditions))
    sizes = list(dict.fromkeys(size for _, size in conditions))
    lines = [f"| {' | '.join(['network', *runtimes])} |", f"|---{'|---:' * len(runtimes)}|"]
    for comparison in comparisons:
        for row in comparison.rows[1:]:
            cells = [f"└ {row.role}" if row.role == "control" else row.name]
            for runtime in runtimes:
                measured = [size for size in sizes if (runtime, size) in comparison.conditions]
                speedups = " / ".join(f"{comparison.speedup(row, runtime, size):.2f}" for size in measured)
                if row.role == "mod" and measured:
                    taxes = " / ".join(f"{100 * comparison.mod_tax(row, runtime, size):+.1f}" for size in measured)
                    speedups = f"{taxes} % ({speedups})"
                cells.append(speedups)
            lines.append(f"| {' | '.join(cells)} |")
    machine, versions = comparisons[0].provenance, comparisons[0].provenance.versions
    rounds = sorted({len(row.measurements[0].times_ms) for comparison in comparisons for row in comparison.rows})
    lines.append(
        f"\nMoD tax (speed-up over {comparisons[0].rows[0].name}) at batch {' / '.join(map(str, sizes))}; controls "
        f"have the speed-up only; {machine.processor}, {machine.threads} threads; torch {versions['torch']}, "
        f"onnxruntime {versions['onnxruntime']}, openvino {versions['openvino']}; medians of "
        f"{' and '.join(map(str, rounds))} interleaved rounds."
    )
    return "\n".join(lines)


def summary(network: str, comparisons: list[Comparison]) -> str:
    """Return a table of one network: a row for each runtime and device, a column for each configuration.

    The batch sizes of a row can be in several files.
    """
    measured: dict[tuple[str, str], dict[int, tuple[str, str]]] = {}
    first = comparisons[0]
    machine = first.provenance
    for comparison in comparisons:
        device, torch_version = comparison.provenance.device, comparison.provenance.versions["torch"]
        where = "" if device == "cpu" else f", {' '.join(device.split()[:2])}, {comparison.dtype}"
        if torch_version != machine.versions["torch"]:
            where += f", torch {torch_version}"
        step = "training step, " if comparison.step == "training" else ""
        for row in comparison.rows:
            if row.role == "mod" and row.name.split()[0] == network:
                for runtime, size in comparison.conditions:
                    speedup, tax = (of(row, runtime, size) for of in (comparison.speedup, comparison.mod_tax))
                    of_column = measured.setdefault((f"{step}{runtime}{where}", row.name), {})
                    of_column[size] = f"{speedup:.2f}", f"{100 * tax:+.1f}"
    cells: dict[str, dict[str, str]] = {}
    for (label, column), by_size in measured.items():
        sizes = sorted(by_size)
        speedups, taxes = (" / ".join(by_size[size][part] for size in sizes) for part in range(2))
        cells.setdefault(f"{label}, batch {' / '.join(map(str, sizes))}", {})[column] = f"{speedups} ({taxes} %)"
    columns = sorted({column for row in cells.values() for column in row})
    lines = [f"| {' | '.join(['runtime', *columns])} |", f"|---{'|---:' * len(columns)}|"]
    lines += [f"| {' | '.join([label, *(row.get(name, '') for name in columns)])} |" for label, row in cells.items()]
    lines.append(
        f"\nSpeed-up over {first.rows[0].name} (MoD tax); {' × '.join(map(str, first.image_shape[1:]))} pixels; "
        f"{machine.processor}, {machine.threads} {'thread' if machine.threads == 1 else 'threads'}, "
        f"torch {machine.versions['torch']}, unless the row says otherwise; medians of interleaved rounds."
    )
    return "\n".join(lines)


def read_schema(path: Path) -> str | None:
    """Return the schema that a result file states, or `None`."""
    return json.loads(path.read_text(encoding="utf-8")).get("schema")


def _of_file(path: Path) -> str:
    renderers = {
        "families.json": families,
        "finetune_rates.json": finetune_rates_table,
        "gpu-kernels.json": gpu_kernels_table,
        "identity_start.json": identity_start,
        "forms.json": forms,
        "int8.json": int8,
        "parity.json": parity,
        "tune-times.json": tune_times_table,
    }
    if path.name.startswith("pays-"):
        return pays_table(json.loads(path.read_text(encoding="utf-8")))
    if path.name.startswith("interactions-"):
        return interactions_table(json.loads(path.read_text(encoding="utf-8")))
    if path.name.startswith("tuned-"):
        return tuned_table(json.loads(path.read_text(encoding="utf-8")))
    if (render := renderers.get(path.name)) is not None:
        return render(json.loads(path.read_text(encoding="utf-8")))
    return comparison_table(read_result(path)).markdown()


def forms(result: dict[str, Any]) -> str:
    """Return the table of benchmarks/forms.py: a row for each form, a column for each runtime."""
    runtimes = list(dict.fromkeys(row["runtime"] for row in result["rows"]))
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in result["rows"]:
        cells.setdefault(row["network"], {}).setdefault(row["runtime"], []).append(row)
    lines = [f"| {' | '.join(['network', *runtimes])} |", f"|---{'|---:' * len(runtimes)}|"]
    for name, by_runtime in cells.items():
        if name != "resnet50":
            both = [by_runtime[runtime] for runtime in runtimes]
            taxes = [" / ".join(f"{row['tax_pct']:+.1f}" for row in rows) for rows in both]
            speedups = [" / ".join(f"{row['speedup']:.2f}" for row in rows) for rows in both]
            pairs = zip(taxes, speedups, strict=True)
            shown = [speedup if name == "control" else f"{tax} % ({speedup})" for tax, speedup in pairs]
            lines.append(f"| {' | '.join([name, *shown])} |")
    machine, versions = result["provenance"], result["provenance"]["versions"]
    lines.append(
        "\nMoD tax of ResNet75-MoD (speed-up over ResNet50) at batch 1 / 8; the control has the speed-up only; "
        f"{machine['processor']}, {machine['threads']} threads; onnxruntime {versions['onnxruntime']}, "
        f"openvino {versions['openvino']}; "
        f"medians of {' / '.join(map(str, result['rounds'].values()))} interleaved rounds."
    )
    return "\n".join(lines)


def families(result: dict[str, Any]) -> str:
    """Return the tables of benchmarks/families.py: totals, a row for each family, and each failure with its reason."""
    by_family: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        by_family.setdefault(row["family"], []).append(row)
    lines: list[str] = []
    if len(result["rows"]) < result["networks"]:
        tried = f"{len(result['rows']):,} of {result['networks']:,}"
        lines.append(f"{tried} networks have been tried so far; most networks above 150 M parameters have not.\n")
    for library in ("timm", "torchvision"):
        rows = [row for row in result["rows"] if row["name"].startswith(library)]
        counted = [row["outcome"] == "works" for row in rows if row["outcome"] != "none"]
        if not counted:
            continue
        lines.append(
            f"{library} {result['provenance']['versions'][library]}: {len(rows):,} networks; {len(counted)} of them "
            "have consecutive convolutional blocks, and "
            f"**{sum(counted)} of these work ({sum(counted) / len(counted):.1%})**.\n"
        )
    lines += [
        "| family | networks | work | converted to MoD blocks | kept as standard blocks in some networks |",
        "|---|---:|---:|---|---|",
    ]
    for family, rows in by_family.items():
        if rows := [row for row in rows if row["outcome"] != "none"]:
            work = sum(row["outcome"] == "works" for row in rows)
            classes = ", ".join(sorted({name for row in rows for name in row["classes"]}))
            kept = ", ".join(sorted({name for row in rows for name, _ in row["kept"]}))
            lines.append(f"| {family} | {len(rows)} | {work} | {classes} | {kept} |")
    lines += ["\n**Networks that fail**\n", "| network | why |", "|---|---|"]
    lines += [f"| {row['name']} | {_cell(row['reason'])} |" for row in result["rows"] if row["outcome"] == "fails"]
    lines += [
        "\n**Networks without consecutive convolutional blocks**\n",
        "| family | networks | first network, and why |",
        "|---|---:|---|",
    ]
    for family, rows in by_family.items():
        if rows := [row for row in rows if row["outcome"] == "none"]:
            first = f"{rows[0]['name'].partition('/')[2]}: {_cell(rows[0]['reason'])}"
            lines.append(f"| {family} | {len(rows)} | {first} |")
    return "\n".join(lines)


def _cell(reason: str) -> str:
    """Return a reason that fits into a table cell."""
    reason = reason.rpartition("Block types seen: ")[2].replace("|", "/").replace("\n", " ")
    reason = "it has no blocks around convolutions" if reason == "none" else reason
    return reason if len(reason) <= 240 else f"{reason[:240]} …"


def identity_start(result: dict[str, Any]) -> str:
    """Return the table of benchmarks/identity_start.py: accuracy after some steps, mean and range over the seeds."""
    recipe, rows = result["recipe"], result["rows"]
    header = ["network", *(f"step {step}" for step in recipe["looks"])]
    lines = [f"| {' | '.join(header)} |", f"|---{'|---:' * len(recipe['looks'])}|"]
    for network in dict.fromkeys(row["network"] for row in rows):
        looks = zip(*(row["accuracy_pct"] for row in rows if row["network"] == network), strict=True)
        cells = [
            f"{look[0]:.1f}" if len(look) == 1 else f"{sum(look) / len(look):.1f} ({min(look):.1f} to {max(look):.1f})"
            for look in looks
        ]
        lines.append(f"| {' | '.join([network, *cells])} |")
    seeds = len({row["seed"] for row in rows})
    over = "one seed" if seeds == 1 else f"mean (lowest to highest) of {seeds} seeds"
    lines.append(
        f"\nTop-1 % on {recipe['test_images']:,} test images after the given number of steps, batch "
        f"{recipe['batch_size']}; {over}; {recipe['size']} pixels, SGD at {recipe['learning_rate']}, "
        f"warm-up of {recipe['warm_up']} steps; "
        f"torch {result['provenance']['versions']['torch']}."
    )
    return "\n".join(lines)


def int8(result: dict[str, Any]) -> str:
    """Return the table of benchmarks/int8.py: a row for each network, a column for each runtime."""
    runtimes = list(result["networks"][0]["runtimes"])
    lines = [f"| {' | '.join(['network', *runtimes])} |", f"|---{'|---:' * len(runtimes)}|"]
    for network in result["networks"]:
        cells = [f"{network['row']}, seed {network['seed']}"]
        for measured in network["runtimes"].values():
            selection = measured.get("selection")
            kept = f" ({selection['selected_pct']:.1f})" if selection else ""
            cells.append(f"{measured['top1_pct']:.2f}{kept}")
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines.append(
        f"\nTop-1 % on {result['test_images']:,} test images (% of the selected channels that eager PyTorch also "
        f"selects); INT8 calibrated on {result['calibration_images']} training images; "
        f"{result['provenance']['processor']}; {versions}."
    )
    return "\n".join(lines)


def parity(result: dict[str, Any]) -> str:
    """Return the table of benchmarks/parity.py: a row for each network; each cell has a value for each runtime."""
    names = dict.fromkeys(row["name"] for row in result["rows"])
    lines: list[str] = []
    if len(names) < result["networks"]:
        lines.append(
            f"{len(names)} of {result['networks']} networks have been compared so far, the small ones first.\n"
        )
    lines += [
        "| network | MoD blocks | largest error | same top-1 | same selection | same selection with equal scores |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        rows = [row for row in result["rows"] if row["name"] == name]
        cells = [
            " / ".join(f"{row['largest_error']:.0e}" for row in rows),
            " / ".join(f"{row['top1_equal']}" for row in rows),
        ]
        if rows[0]["mod_blocks"]:
            cells.append(" / ".join(f"{row['selected_alike']}" for row in rows))
            cells.append(
                " / ".join("all" if row["tied_agreement"] == 1 else f"{row['tied_agreement']:.2%}" for row in rows)
            )
        else:
            cells += ["", ""]
        lines.append(f"| {name} | {rows[0]['mod_blocks']} | {' | '.join(cells)} |")
    runtimes = dict.fromkeys(row["runtime"] for row in result["rows"])
    near = {
        field: " / ".join(str(sum(row[field] for row in result["rows"] if row["runtime"] == name)) for name in runtimes)
        for field in ("top1_near_ties", "selection_near_ties")
    }
    lines.append(
        f"\nONNX Runtime / OpenVINO on a CPU, float32, compared with eager PyTorch (torch "
        f"{result['provenance']['versions']['torch']}) on {result['photographs']} photographs. Errors are relative to "
        "the largest logit, over the photographs with the same selection. Differences where the two deciding values "
        f"are within 1e-5 of each other: top-1 of {near['top1_near_ties']} photographs, selection of "
        f"{near['selection_near_ties']}."
    )
    return "\n".join(lines)


def main() -> None:
    """Render or check the tables."""
    old = {page: page.read_text(encoding="utf-8") for page in PAGES}
    stale = [page for page, text in old.items() if rendered(text) != text]
    for page in stale:
        print(f"{page.relative_to(ROOT)} is out of date")
    if "--check" in sys.argv[1:]:
        sys.exit(1 if stale else 0)
    for page in stale:
        write_whole(page, rendered(old[page]))


if __name__ == "__main__":
    main()

"""How well `cnnmod tune` predicts times: collect the checks of tune folders into one result file.

    cnnmod tune timm/resnet50 --plan-only --budget 0.7 --out onnxruntime
    cnnmod tune timm/resnet50 --plan-only --budget 0.7 --runtime openvino --out openvino
    python benchmarks/tune_times.py onnxruntime openvino    # writes results/tune-times.json

`tune` needs an idle machine: three minutes for each runtime on two cores.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from cnnmod.records.files import write_whole
from cnnmod.tuning.stored import read_tuned

RESULT = Path(__file__).resolve().parent / "results" / "tune-times.json"


def main(folders: tyro.conf.Positional[list[Path]], out: Path = RESULT) -> None:
    """Collect the measured times of finished tune folders.

    Args:
        folders: The folders.
        out: The result file.
    """
    entries = []
    for folder in folders:
        tuned, settings = read_tuned(folder)
        entries.append(
            {
                "network": settings.network,
                "runtime": settings.runtime,
                "image_shape": settings.image_shape,
                "threads": settings.threads,
                "rounds": settings.rounds,
                "times": dataclasses.asdict(tuned.times),
            }
        )
    write_whole(out, json.dumps({"schema": "cnnmod.tune_times/1", "entries": entries}, indent=1) + "\n")


def tune_times_table(result: dict[str, Any]) -> str:
    """Return a table with the predicted and the measured time of each check.

    Args:
        result: A result file of this script.
    """
    lines = ["| runtime | scale | predicted / measured time of other combinations | largest error |"]
    lines.append("|---|---:|---|---:|")
    for entry in result["entries"]:
        times = entry["times"]
        checks = [(check["predicted"], check["measured"]) for check in times["checks"]]
        pairs = ", ".join(f"{predicted:.3f} / {measured:.3f}" for predicted, measured in checks)
        error = max(abs(predicted / measured - 1) for predicted, measured in checks)
        lines.append(f"| {entry['runtime']} | {times['scale']:.3f} | {pairs} | {100 * error:.1f} % |")
    entry = result["entries"][0]
    machine = entry["times"]["provenance"]
    batch, _, *size = entry["image_shape"]
    lines.append(
        f"\nFractions of the dense network's time; batch {batch}, {' × '.join(map(str, size))} pixels; "
        f"{machine['processor']}, {entry['threads']} threads, torch {machine['versions']['torch']}; medians of "
        f"{entry['rounds']} interleaved rounds."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

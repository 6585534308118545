"""Render what each choice of `cnnmod tune` saves and costs: a result of tuned.py and of candidate_rates.py."""

from typing import Any

from cnnmod.method.choices import SKIP


def choices_table(tuned: dict[str, Any], rates: dict[str, Any]) -> str:
    """Return a table with a row for each choice.

    Args:
        tuned: A result file of `tuned.py`.
        rates: The result file of `candidate_rates.py` for the same experiment.
    """
    if tuned["name"] != rates["experiment"]:
        raise ValueError(f"the results are of two experiments, {tuned['name']} and {rates['experiment']}")
    titles = [
        "choice",
        "saves %",
        "cross-entropy",
        *(f"error, {float(rate):g}" for rate in sorted(rates["errors"], key=float)),
    ]
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    for label, means in tuned["choices"].items():
        found = [rates["errors"][rate] for rate in sorted(rates["errors"], key=float)]
        errors = ["1" if label == SKIP else f"{errors[label]:.2f}" for errors in found]  # a skip is the identity
        lines.append(f"| {label} | {100 * means['saved']:.1f} | {means['cross_entropy']:+.3f} | {' | '.join(errors)} |")
    experiment, machine = tuned["experiment"], tuned["times_provenance"]
    lines.append(
        "\nMeans over the blocks. The part of the dense network's time that one block saves "
        f"({experiment['runtime']}, {experiment['batch']} images); the increase of the cross-entropy of the dense "
        "network with this one block, before fine-tuning; the squared error of the block's output on "
        f"{rates['images']:,} validation images, divided by that of the identity, after {rates['batches']} batches of "
        f"training with each learning rate. {machine['processor']}, {experiment['threads']} thread, torch "
        f"{machine['versions']['torch']}."
    )
    return "\n".join(lines)

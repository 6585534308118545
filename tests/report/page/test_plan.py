import dataclasses
import re
from pathlib import Path

import pytest

from cnnmod import MoDConfig
from cnnmod.cli import run
from cnnmod.measure.experiment import read_experiment, write_experiment
from cnnmod.method.choices import Choices
from cnnmod.report.page.page import write_report
from cnnmod.report.page.plan import check_experiment
from cnnmod.report.page.sources import Tuning, read_sources
from cnnmod.report.page.verdict import verdict
from cnnmod.training.recipes import recipe
from cnnmod.tuning.stored import read_tuned
from small import shallow_resnet
from tune_folder import PAPER, made_up, write_tune_folder

EXPERIMENT = Path(__file__).parents[3] / "benchmarks" / "results" / "cifar10.json"


def page_of(paths, tmp_path):
    """Write a report, and return its verdict and its page."""
    conclusion = write_report(paths, tmp_path / "report.html")
    return conclusion, (tmp_path / "report.html").read_text(encoding="utf-8")


def experiment_on_digits(folder, plan=None):
    """Write an experiment with digits, whose network is that of the plan."""
    digits = recipe("digits")
    digits = dataclasses.replace(digits, networks=dataclasses.replace(digits.networks, plan=plan))
    folder.mkdir()
    experiment = dataclasses.replace(read_experiment(EXPERIMENT), recipe=digits)
    write_experiment(experiment, folder / "accuracy.json")
    return folder


def test_a_tune_folder_is_a_section_and_the_verdict(tmp_path):
    tuned = made_up()
    conclusion, text = page_of([write_tune_folder(tmp_path / "tuned", tuned)], tmp_path)
    assert tuned.losses is not None
    mod, skipped, kept = tuned.chosen.count()
    assert f"({mod} MoD blocks, {skipped} skipped, {kept} kept)" in conclusion
    assert re.search(r"predicted to be 1\.\d\d× as fast as the dense network in eager; before fine-tuning", conclusion)
    assert conclusion in text
    assert "<h2>Plan</h2>" in text
    for block, label in tuned.chosen.labels.items():
        (row,) = re.findall(rf'<tr><th scope="row">{re.escape(block)}</th>(.*)</tr>', text)
        cells = re.findall("<td>(.*?)</td>", row)
        saved = {"keep": "0.0", "c=4": "5.0", "skip": "9.0"}[label]
        assert cells[1:] == [label, saved, f"{tuned.losses.cost(block, label):+.3f}"]
    assert text.count("<svg") == 1
    assert "Largest error of the predicted time of 4 other combinations: 1.0 %." in text
    assert "over 30 random combinations: 1.00." in text
    assert text.count('<th scope="row">') == len(tuned.space.blocks) + len(tuned.front) + 4
    assert "The baseline is the dense network" not in text  # there is no experiment
    assert "1: 2 MoD, 2 skipped, 3 kept" in text
    assert "in 20 interleaved rounds with the dense network" in text


def test_it_says_where_skipping_is_better_everywhere(tmp_path):
    tuned = made_up(mod_cost=1.0, skip_cost=0.1)
    conclusion, text = page_of([write_tune_folder(tmp_path / "tuned", tuned)], tmp_path)
    assert conclusion.endswith("leaving blocks out is better everywhere, so MoD is not for this network.")
    assert text.count("leaving blocks out is better everywhere") == 2


@pytest.mark.parametrize(
    ("more", "with_images", "said"),
    [
        ((PAPER,), True, ": selection is not worth its time here."),
        ((PAPER,), False, "."),  # no accuracy is known
        ((), True, "."),  # no selection was offered
    ],
)
def test_it_says_that_a_plan_of_narrow_blocks_does_not_select(tmp_path, more, with_images, said):
    tuned = made_up(configs=(MoDConfig.narrow(4), *more), with_images=with_images)
    assert "narrow c=4" in tuned.chosen.labels.values()
    said = f"No MoD block of the plan selects channels by their scores{said}"
    assert str(tuned).endswith(said)
    assert said in page_of([write_tune_folder(tmp_path / "tuned", tuned)], tmp_path)[1]
    assert "selects channels" not in str(made_up())


def test_a_plan_without_images_has_no_figure(tmp_path):
    conclusion, text = page_of([write_tune_folder(tmp_path / "tuned", made_up(with_images=False))], tmp_path)
    assert "fine-tuning" not in conclusion
    assert "<svg" not in text
    assert "Rank correlation" not in text


def test_runs_of_the_same_network_are_accepted(tmp_path):
    tuned = made_up()
    folder = write_tune_folder(tmp_path / "tuned", tuned)
    runs = experiment_on_digits(tmp_path / "runs", tuned.choices)
    conclusion, text = page_of([runs, folder], tmp_path)
    assert "<h2>Plan</h2>" in text
    assert "The plan for" not in conclusion  # measured accuracies say more
    without_plan = read_experiment(experiment_on_digits(tmp_path / "other") / "accuracy.json")
    check_experiment(Tuning(folder, *read_tuned(folder)), without_plan, runs)


def test_runs_and_plans_of_other_networks_raise(tmp_path):
    folder = write_tune_folder(tmp_path / "tuned")
    other = write_tune_folder(tmp_path / "other", made_up(budget=0.9, model=shallow_resnet()))
    runs = experiment_on_digits(tmp_path / "runs", Choices({"layer1.1": None}, {"layer1.1": 7}))
    for paths, message in (
        ([runs, folder], r"that of .*runs: layer1\.1 is 16 channels wide in the plan, 7 in the network"),
        (
            [EXPERIMENT, folder],
            r"that of .*results: layer2\.2 is 32 channels wide in the plan, not a block of the network",
        ),
        ([folder, other], r"that of .*tuned: .* is not in the plan, \d+ in the network"),
    ):
        with pytest.raises(ValueError, match=r"a report is about one network, but in .*, the plan .* than " + message):
            write_report(paths, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_runs_of_a_plan_that_only_skips_are_their_own_control(tmp_path):
    tuned = made_up(mod_cost=1.0, skip_cost=0.1)
    runs = experiment_on_digits(tmp_path / "runs", tuned.choices)
    conclusion = verdict(read_sources([runs]))
    assert conclusion.endswith("it only leaves blocks out, so the network is its own control.")


@pytest.mark.slow
def test_trained_runs_of_a_plan_that_only_skips_are_shown(tmp_path):
    folder = write_tune_folder(tmp_path / "tuned", made_up(mod_cost=1.0, skip_cost=0.1))
    changes = "--set epochs=1 warmup_epochs=0 train_images=200 network=resnet18_cifar"
    plan = f"--plan {folder / 'plan.json'}"
    run(f"train digits --data digits --out {tmp_path}/runs --rows baseline mod {plan} {changes}".split())
    _, text = page_of([tmp_path / "runs", folder], tmp_path)
    assert "The network has no MoD block, so it selects no channels." in text
    assert "Predictions for test images" in text


def test_an_unfinished_folder_raises(tmp_path):
    folder = write_tune_folder(tmp_path / "tuned")
    (folder / "plan.json").unlink()
    with pytest.raises(ValueError, match="has no finished result of tune; run `cnnmod tune` with this folder again"):
        write_report([folder], tmp_path / "report.html")

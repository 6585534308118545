import pytest
import torch
from tuning_network import CONFIGS, EXAMPLE, batches, network

from cnnmod.method.skip import skipped_blocks
from cnnmod.tuning.candidates import Candidates
from cnnmod.tuning.loss_meter import LossMeter
from cnnmod.tuning.space import find_space


@pytest.fixture
def space():
    return find_space(network(), CONFIGS, EXAMPLE)


def meter(model, space, **arguments):
    return LossMeter(model, Candidates(model, space, EXAMPLE), batches(3, 0), batches(2, 1), "hash", **arguments)


def test_a_plan_is_measured_once_and_saved(space):
    saved = []
    made = meter(network(), space, save=saved.append)
    labels = {block.name: "skip" for block in space.blocks}
    assert made.measure_plan(labels) is made.measure_plan(dict(labels))
    assert [result.labels for result in made.table.plans] == [labels]
    assert len(saved) == 1


def test_the_network_of_a_plan_is_a_copy_with_its_choices_and_new_statistics(space):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (block.name for block in space.blocks[:2])
    made = meter(model, space).network({first: "skip", second: "c=2"})
    assert list(skipped_blocks(made)) == [first]
    assert not torch.equal(made[1][0].bn1.running_mean, model[1][0].bn1.running_mean)
    assert not skipped_blocks(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_network_that_keeps_every_block_is_the_dense_network(space):
    model = network()
    made = meter(model, space)
    labels = {block.name: "keep" for block in space.blocks}
    weights = made.network(labels).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert made.measure_plan(labels) == made.table.dense


def test_a_shuffled_loader_gives_the_same_images_each_time(space):
    images = torch.utils.data.TensorDataset(torch.rand(700, 3, 8, 8), torch.randint(3, (700,)))
    loader = torch.utils.data.DataLoader(images, batch_size=50, shuffle=True)
    model = network()
    first, second = (LossMeter(model, Candidates(model, space, EXAMPLE), loader, batches(1, 1), "hash") for _ in "ab")
    assert [len(batch) for batch in first.images] == [128] * 4
    assert all(map(torch.equal, first.images, second.images))


def test_measured_cross_entropy_is_that_of_the_network(space):
    made = meter(network(), space)
    labels = {space.blocks[0].name: "skip"}
    images, classes = (torch.cat(parts) for parts in zip(*batches(2, 1), strict=True))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(made.network(labels)(images), classes)
    assert made.measure_plan(labels).cross_entropy == pytest.approx(float(expected), rel=1e-4)


def test_a_table_of_other_weights_is_refused(space):
    table = meter(network(), space).table
    model = network()
    with pytest.raises(ValueError, match="measured for other weights of the network; use a new folder"):
        LossMeter(model, Candidates(model, space, EXAMPLE), batches(1, 0), batches(1, 1), "other", finished=table)

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from cnnmod.tuning.normalize import normalize_


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)).eval()


def test_statistics_are_those_of_the_images():
    model, images = network(), [torch.randn(8, 3, 5, 5) + 2 for _ in range(3)]
    normalize_(model, images)
    with torch.no_grad():
        outputs = [model[0](batch) for batch in images]
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variance = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)


def test_only_the_statistics_change():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    normalize_(model, [torch.randn(8, 3, 5, 5)])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert model[1].momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_dropout_in_a_batch_norm_stays_off():
    model = nn.Sequential(BatchNormAct2d(3, drop_layer=nn.Dropout), nn.Conv2d(3, 2, 1)).eval()
    seen = []
    model[0].drop.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    normalize_(model, [torch.randn(8, 3, 5, 5)])
    assert seen == [False]


def test_a_network_without_batch_norms_is_not_run():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    normalize_(model, [torch.rand(1)])  # not a valid input

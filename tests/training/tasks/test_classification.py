import torch
from torch import nn

from cnnmod.training.recipes import recipe

CPU = torch.device("cpu")


def fixed(logits):
    return lambda images: logits[: len(images)]


def test_loss_is_cross_entropy_with_label_smoothing():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for smoothing in (0.0, 0.2):
        loss = recipe("digits", [f"label_smoothing={smoothing}"]).task.loss_with(None, 3, CPU)
        expected = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(loss(fixed(logits), torch.rand(4, 1, 8, 8), labels), expected)


def test_labels_are_mixed_like_the_images():
    """Every pixel has the class index as its value, so the mean shows how images are mixed."""
    labels = torch.arange(4)
    images = labels.float()[:, None, None, None].expand(4, 1, 8, 8)
    seen = []

    def model(mixed):
        seen.append(mixed)
        return torch.zeros(len(mixed), 4)

    for mix in ("mixup=1.0", "cutmix=1.0"):
        loss = recipe("digits", [mix]).task.loss_with(None, 4, CPU)
        value = loss(model, images, labels)
        torch.testing.assert_close(value, torch.tensor(4.0).log())
        assert not torch.equal(seen[-1], images)
        torch.testing.assert_close(seen[-1].mean(), images.mean())


def test_distillation_loss_is_zero_for_the_logits_of_the_teacher():
    """Other logits have a higher loss, and the teacher gets no gradient."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).train()
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    loss = recipe("digits", ["distill_weight=1", "distill_temperature=3"]).task.loss_with(teacher, 3, CPU)
    assert not teacher.training
    logits = teacher(images).detach()
    assert abs(loss(fixed(logits), images, labels).item()) < 1e-6
    wrong = (logits + torch.tensor([1.0, 0.0, 0.0])).requires_grad_()
    value = loss(fixed(wrong), images, labels)
    assert value > 0.01
    value.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())

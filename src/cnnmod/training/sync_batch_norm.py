"""Batch norm with statistics over all processes. On the CPU, torch does not support this."""

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def sync_batch_norm(model: nn.Module) -> nn.Module:
    """Replace all batch norms by batch norms with statistics over all processes. The parameters are shared.

    Raises:
        ValueError: If the network is on the CPU and has a batch norm other than torch's `BatchNorm2d`.
    """
    if next(model.parameters()).device.type != "cpu":
        return convert_sync_batchnorm(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, _BatchNorm):
            if type(layer) is not nn.BatchNorm2d:
                raise ValueError(f"{name} is a {type(layer).__name__}; on the CPU only BatchNorm2d can be synchronized")
            model.set_submodule(name, _SyncedBatchNorm2d.of(layer))
    return model


class _SyncedBatchNorm2d(nn.BatchNorm2d):
    @classmethod
    def of(cls, layer: nn.BatchNorm2d) -> "_SyncedBatchNorm2d":
        synced = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        synced.__dict__.update(layer.__dict__)
        return synced

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        processes = torch.distributed.get_world_size()
        count = input.numel() / input.shape[1] * processes
        mean_C = all_reduce(input.mean((0, 2, 3))) / processes
        centered_NCHW = input - mean_C[:, None, None]
        variance_C = all_reduce(centered_NCHW.square().mean((0, 2, 3))) / processes
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean_C, self.momentum)
                self.running_var.lerp_(variance_C * (count / (count - 1)), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
        normalized_NCHW = centered_NCHW * (variance_C + self.eps).rsqrt()[:, None, None]
        return (
            normalized_NCHW * self.weight[:, None, None] + self.bias[:, None, None] if self.affine else normalized_NCHW
        )

"""Optimizer and learning-rate schedule of a training."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dynamics.config import TrainingSettings
from dynamics.training.rates import learning_rate


def build_optimizer(
    model: nn.Module, training: TrainingSettings
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Build the optimizer and its schedule; matrices are decayed, biases and norms are not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if training.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            groups,
            lr=training.learning_rate,
            betas=(training.beta1, training.beta2),
            eps=training.epsilon,
            fused=True,
        )
    else:
        optimizer = torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum)
    peak = training.learning_rate
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate(training, step) / peak)

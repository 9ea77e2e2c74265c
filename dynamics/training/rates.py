"""Learning rates of a training, and the decay of a row that is never used. Needs no torch."""

import math

from dynamics.config import TrainingSettings


def learning_rate(training: TrainingSettings, step: int) -> float:
    """Learning rate of update `step`, counted from 0.

    Warm-up is linear and starts at peak / warmup_steps, so that the first update is not lost. The
    last update comes within one schedule step of the final ratio.

    Example:
        >>> training = TrainingSettings(steps=4, warmup_steps=2, schedule="constant")
        >>> [learning_rate(training, step) for step in range(4)]
        [0.0005, 0.001, 0.001, 0.001]
    """
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    if training.schedule == "constant":
        return training.learning_rate
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    shape = cosine if training.schedule == "cosine" else 1 - progress
    final = training.final_learning_rate_ratio
    return training.learning_rate * (final + (1 - final) * shape)


def unused_row_factor(training: TrainingSettings, step: int) -> float:
    """Norm after `step` updates, relative to step 0, of an input row that is never used.

    Under AdamW such a row has no gradient and only decays: prod over updates of
    (1 - learning rate x weight decay) (SCIENCE F18). SGD's weight decay enters the momentum, so
    that the same product does not hold; without weight decay both leave the row alone.

    Raises:
        ValueError: The optimizer is SGD with weight decay, for which there is no product form.
    """
    if training.weight_decay == 0:
        return 1.0
    if training.optimizer != "adamw":
        raise ValueError("the product form holds for AdamW only")
    # Decoupled weight decay (Loshchilov & Hutter 2019) without a gradient. Theirs is multiplied by
    # the schedule, that of torch.optim.AdamW, as here, by the whole learning rate.
    return math.prod(
        1 - learning_rate(training, update) * training.weight_decay for update in range(step)
    )

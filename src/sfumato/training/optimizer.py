"""AdamW with groups of parameters, and the schedule of the learning rate."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from sfumato.runs import Plan


def log_variances(module: nn.Module) -> list[nn.Parameter]:
    """The log variances of tasks, wherever they are learned."""
    return [parameter for name, parameter in module.named_parameters() if "log_variances." in name]


def configure(module: nn.Module, plan: Plan, steps: int) -> OptimizerLRSchedulerConfig:
    """Optimizer and schedule, as Lightning takes them.

    Args:
        module: The module with all parameters.
        plan: Rates and the method's own schedule.
        steps: Number of steps of the whole training.
    """
    optimizer = torch.optim.AdamW(parameter_groups(module, plan), lr=plan.config.learning_rate)
    rates = [group["lr"] for group in optimizer.param_groups]
    rate, members = plan.training.rate, plan.config.members
    if rate is None:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 2), pct_start=0.15)
    else:  # it is called once more after the last step
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(min(step, steps - 1), steps, members))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def parameter_groups(module: nn.Module, plan: Plan) -> list[dict[str, object]]:
    """Weights, which decay; biases, normalizations and factors of members, which do not; log variances of tasks."""
    noise = log_variances(module)
    # A penalty is the prior of the method. Weight decay beside it would count the prior twice.
    decay = plan.config.weight_decay if plan.training.penalty is None else 0.0
    decaying: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not any(parameter is each for each in noise):
            (free if parameter.ndim <= 1 or ".rank_one." in name else decaying).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decaying, "weight_decay": decay},
        {"params": free, "weight_decay": 0.0},
    ]
    if noise:
        # A step of Adam is about as long as the learning rate, and a log variance may have to change by several units.
        groups.append({"params": noise, "weight_decay": 0.0, "lr": 10 * plan.config.learning_rate})
    return groups

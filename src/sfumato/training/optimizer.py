"""AdamW with groups of parameters, and the schedule of the learning rate."""

from __future__ import annotations

import re

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from sfumato.runs import Plan

ENCODER = re.compile(r"(^|\.)network\.encoder\.")  # of the network, which other modules may stand around


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
    """Weights, which decay; biases, normalizations and factors of members, which do not; log variances of tasks.

    Those of the encoder have a learning rate of their own.
    """
    noise = log_variances(module)
    # A penalty is the prior of the method. Weight decay beside it would count the prior twice.
    decay = plan.config.weight_decay if plan.training.penalty is None else 0.0
    rate = plan.config.learning_rate
    # By weight decay and learning rate; the first group has the rate that is logged.
    found: dict[tuple[float, float], list[nn.Parameter]] = {(decay, rate): [], (0.0, rate): []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not any(parameter is each for each in noise):
            decays = parameter.ndim > 1 and ".rank_one." not in name
            share = plan.config.encoder_rate if ENCODER.search(name) else 1.0
            found.setdefault((decay if decays else 0.0, rate * (share or 1.0)), []).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": each, "weight_decay": decay, "lr": lr} for (decay, lr), each in found.items()
    ]
    if noise:
        # A step of Adam is about as long as the learning rate, and a log variance may have to change by several units.
        groups.append({"params": noise, "weight_decay": 0.0, "lr": 10 * plan.config.learning_rate})
    return groups

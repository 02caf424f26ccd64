"""Where networks are trained: the CPU, or a GPU; checkpoints are the CPU's either way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.training.problem import TrainingProblem


def choose_device(name: str) -> torch.device:
    """Return the device by name; "auto" is a GPU when there is one.

    Raises
    ------
    TrainingProblem
        It is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise TrainingProblem(f"the device {name!r} cannot be used: {str(problem).splitlines()[0]}") from None
    return device


def move_to_cpu(state: Any) -> Any:
    """Return a copy of nested state with every tensor on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: move_to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(move_to_cpu(value) for value in state)
    return state

"""The optimisers of a crew's members do what one does, and their state is the same to whoever takes it over."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from service import network
from service.network import MultiLayerPerceptron
from service.spec import TrainingSpec
from worker.crew import ALONE, Crew
from worker.descent import Descent

OPTIMIZERS = [
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.9},
    {"name": "adam"},
    {"name": "amsgrad"},
    {"name": "adamw"},
    {"name": "muon"},
]


def spec_of(optimizer: dict[str, Any], **fields: Any) -> TrainingSpec:
    hidden = {"hidden_widths": [5, 1]}  # of a row, a crew's first member has none
    return TrainingSpec.model_validate({"network": hidden, "optimizer": optimizer, **fields})


def built(spec: TrainingSpec) -> MultiLayerPerceptron:
    made = network.build(spec)
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return made


def walk(descent: Descent, spec: TrainingSpec, made: MultiLayerPerceptron, steps: range) -> list[Parameter]:
    for step in steps:
        for parameter in made.parameters():
            assert parameter.grad is not None
            parameter.grad.copy_(torch.sin(parameter.detach() * step))
        norm = descent.gradient_norm()
        wanted = torch.cat([p.grad.view(-1) for p in made.parameters() if p.grad is not None]).norm()
        torch.testing.assert_close(norm, wanted)
        descent.clip(norm.item(), 1.0)
        descent.step(step, 0.01, spec.regularization)
    return list(made.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("regularization", [{}, {"l1": 0.02, "l2": 0.03}])
def test_a_crew_steps_as_one_does(optimizer: dict[str, Any], regularization: dict[str, float]) -> None:
    spec = spec_of(optimizer, regularization=regularization)
    alone, shared = built(spec), built(spec)
    found = walk(Descent(spec, alone, ALONE), spec, alone, range(1, 4))
    with Crew(2) as crew:
        ours = walk(Descent(spec, shared, crew), spec, shared, range(1, 4))
    for own, other in zip(ours, found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_state_travels_through_arrays(optimizer: dict[str, Any], before: int, after: int) -> None:
    spec = spec_of(optimizer)
    first = built(spec)
    with Crew(before) as crew:
        descent = Descent(spec, first, crew)
        walk(descent, spec, first, range(1, 4))
        arrays = descent.state_arrays()
        second = built(spec)
        second.load_state_dict(first.state_dict())
        wanted = walk(descent, spec, first, range(4, 7))
    if optimizer["name"] != "sgd":
        assert arrays["optimizer.0.step" if optimizer["name"] != "muon" else "optimizer.2.step"] == 3
    with Crew(after) as crew:
        other = Descent(spec, second, crew)
        other.load_state_arrays({**arrays, "best.layers.0.weight": np.zeros((4, 3), np.float32)})
        found = walk(other, spec, second, range(4, 7))
    for own, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-7)

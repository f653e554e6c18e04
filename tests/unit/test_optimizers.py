from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler

from service.spec import TrainingSpec
from worker import optimizers

EPOCH = 4  # steps, of the specs below


def spec_of(schedule: dict[str, Any], steps: int = 40, rate: float = 0.5) -> TrainingSpec:
    return TrainingSpec.model_validate(
        {
            "dataset": {"examples": 100},
            "batch_size": 30,  # four batches a pass, the last one smaller
            "steps": steps,
            "schedule": schedule,
            "optimizer": {"name": "sgd", "learning_rate": rate},
        }
    )


def rates(schedule: dict[str, Any], steps: int = 40, rate: float = 0.5) -> list[float]:
    spec = spec_of(schedule, steps, rate)
    return [optimizers.learning_rate_at(spec, step) for step in range(1, steps + 1)]


def torch_rates(
    make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], count: int, rate: float = 0.5
) -> list[float]:
    optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=rate)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def test_constant() -> None:
    assert rates({"name": "constant"}) == [0.5] * 40


def test_step_and_exponential_fall_at_epoch_boundaries_as_torch_has_it() -> None:
    by_epoch = torch_rates(lambda o: lr_scheduler.StepLR(o, 3, 0.1), 10)
    assert rates({"name": "step", "factor": 0.1, "every_epochs": 3}) == pytest.approx(
        [rate for rate in by_epoch for _ in range(EPOCH)]
    )
    by_epoch = torch_rates(lambda o: lr_scheduler.ExponentialLR(o, 0.8), 10)
    assert rates({"name": "exponential", "factor": 0.8}) == pytest.approx(
        [rate for rate in by_epoch for _ in range(EPOCH)]
    )


def test_exponential_stops_at_its_floor_and_never_rises_to_it() -> None:
    falling = rates({"name": "exponential", "factor": 0.5, "floor": 0.1})
    assert falling[::EPOCH][:4] == pytest.approx([0.5, 0.25, 0.125, 0.1])
    assert falling[-1] == 0.1
    assert rates({"name": "exponential", "factor": 0.5, "floor": 2.0}) == [0.5] * 40


def test_exponential_falls_to_the_fraction_asked_for() -> None:
    falling = rates({"name": "exponential", "final_fraction": 0.001})
    assert falling[0] == 0.5
    assert falling[-1] == pytest.approx(0.0005)
    ratios = [later / earlier for earlier, later in pairwise(falling[::EPOCH])]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    warmed = rates({"name": "exponential", "final_fraction": 0.001, "warmup_steps": 2 * EPOCH})
    assert (max(warmed), warmed[-1]) == pytest.approx((0.5, 0.0005))
    assert rates({"name": "exponential"})[EPOCH] == pytest.approx(0.5 * 0.99)


def test_cosine_is_that_of_torch() -> None:
    expected = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=39, eta_min=0.05), 40)
    found = rates({"name": "cosine", "final_fraction": 0.1})
    assert found == pytest.approx(expected)
    assert found[0] == 0.5
    assert found[-1] == pytest.approx(0.05)


def test_one_cycle_is_that_of_torch() -> None:
    expected = torch_rates(
        lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=40, cycle_momentum=False), 40
    )
    assert rates({"name": "one_cycle"}) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("name", ["constant", "step", "exponential", "cosine", "one_cycle"])
def test_short_runs_have_a_rate_for_every_step(name: str, steps: int) -> None:
    assert all(0 <= rate <= 0.5 for rate in rates({"name": name}, steps))


@pytest.mark.parametrize("name", ["constant", "step", "exponential", "cosine"])
def test_warm_up_rises_linearly_and_the_schedule_begins_after_it(name: str) -> None:
    schedule = {"name": name, "warmup_steps": 10}
    found = rates(schedule)
    assert found[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert found[10] == 0.5
    assert rates(schedule, 10)[-1] == 0.5


def test_after_warm_up_epochs_are_still_those_of_the_run() -> None:
    found = rates({"name": "exponential", "factor": 0.5, "warmup_steps": 6}, 16)
    assert found[6:] == [0.5] * 2 + [0.25] * 4 + [0.125] * 4


def optimizer_of(parameters: list[Parameter], **fields: Any) -> torch.optim.Optimizer:
    return optimizers.make(TrainingSpec.model_validate({"optimizer": fields}).optimizer, parameters)


def two() -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(4, 3, generator=generator)), Parameter(torch.randn(4, generator=generator))]


def walk(optimizer: torch.optim.Optimizer, parameters: list[Parameter], steps: int = 6) -> list[torch.Tensor]:
    for step in range(steps):
        for parameter in parameters:
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize(
    ("fields", "reference"),
    [
        ({"name": "sgd"}, lambda p: torch.optim.SGD(p, lr=0.01, foreach=False)),
        (
            {"name": "sgd", "momentum": 0.9, "nesterov": True},
            lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, foreach=False),
        ),
        (
            {"name": "adam", "beta1": 0.8, "epsilon": 1e-4},
            lambda p: torch.optim.Adam(p, betas=(0.8, 0.999), eps=1e-4, foreach=False),
        ),
        ({"name": "amsgrad"}, lambda p: torch.optim.Adam(p, amsgrad=True, foreach=False)),
    ],
)
def test_they_step_as_torch_defines_them(fields: dict[str, Any], reference: Any) -> None:
    ours, theirs = two(), two()
    found, wanted = walk(optimizer_of(ours, **fields), ours), walk(reference(theirs), theirs)
    torch.testing.assert_close(found, wanted)


def test_amsgrad_without_bias_correction_is_the_papers() -> None:
    """Reddi, Kale and Kumar 2018, algorithm 2; Flux's AMSGrad."""
    spec = TrainingSpec.model_validate({"optimizer": {"name": "amsgrad", "bias_correction": False}}).optimizer
    ours, theirs = two(), [parameter.detach().double() for parameter in two()]
    optimizer = optimizers.make(spec, ours)
    means, squares, largest = ([torch.zeros_like(theirs[i]) for i in range(2)] for _ in range(3))
    for step in range(1, 7):
        for i, parameter in enumerate(ours):
            parameter.grad = torch.sin(parameter.detach() * step)
            gradient = torch.sin(theirs[i] * step)
            means[i] = 0.9 * means[i] + 0.1 * gradient
            squares[i] = 0.999 * squares[i] + 0.001 * gradient**2
            largest[i] = torch.maximum(largest[i], squares[i])
            theirs[i] = theirs[i] - 0.001 * means[i] / (largest[i].sqrt() + 1e-8)
        optimizers.set_learning_rate(optimizer, 0.001 * optimizers.undone_correction(spec, step))
        optimizer.step()
    torch.testing.assert_close([p.detach().double() for p in ours], theirs, rtol=1e-4, atol=1e-6)
    corrected = TrainingSpec.model_validate({"optimizer": {"name": "amsgrad"}}).optimizer
    assert optimizers.undone_correction(corrected, 1) == 1


def test_weight_decay_spares_biases() -> None:
    weight, bias = two()
    before = weight.detach().clone(), bias.detach().clone()
    optimizer = optimizer_of([weight, bias], name="adamw", learning_rate=0.1, weight_decay=0.2)
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before[0] * (1 - 0.1 * 0.2))
    torch.testing.assert_close(bias.detach(), before[1], rtol=0, atol=0)


def test_muon_and_adamw_each_take_their_part() -> None:
    ours, theirs = [*two(), *two()], [*two(), *two()]
    fields = {"learning_rate": 0.05, "momentum": 0.8, "nesterov": False, "weight_decay": 0.1}
    found = walk(optimizer_of(ours, name="muon", adam_learning_rate=0.01, **fields), ours)
    muon = torch.optim.Muon([theirs[0]], lr=0.05, momentum=0.8, nesterov=False, weight_decay=0.1)
    last = torch.optim.AdamW([theirs[2]], lr=0.01, weight_decay=0.1, foreach=False)
    biases = torch.optim.AdamW([theirs[1], theirs[3]], lr=0.01, weight_decay=0, foreach=False)
    reference: list[torch.optim.Optimizer] = [muon, last, biases]
    for step in range(6):
        for parameter in theirs:
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
        for optimizer in reference:
            optimizer.step()
    torch.testing.assert_close(found, [parameter.detach() for parameter in theirs])


def test_the_steps_of_muon_are_nearly_orthogonal() -> None:
    weight, bias, last = Parameter(torch.zeros(6, 3)), Parameter(torch.zeros(6)), Parameter(torch.zeros(2, 6))
    optimizer = optimizer_of([weight, bias, last], name="muon", learning_rate=0.1, weight_decay=0.0)
    weight.grad = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    bias.grad, last.grad = torch.zeros(6), torch.zeros(2, 6)
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach()) / (0.1 * 2**0.5)  # the rate, times sqrt(outputs / inputs)
    assert ((values > 0.6) & (values < 1.3)).all()  # of Newton and Schulz's five rounds


def test_the_schedule_scales_both_rates_of_muon() -> None:
    optimizer = optimizer_of([*two(), *two()], name="muon", learning_rate=0.02, adam_learning_rate=0.003)
    optimizers.set_learning_rate(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.0015, 0.0015])


@pytest.mark.parametrize(("largest", "factor"), [(2.5, 0.5), (5.0, 1.0), (6.0, 1.0)])
def test_clipping_scales_all_gradients_alike(largest: float, factor: float) -> None:
    weight, bias = Parameter(torch.zeros(2, 1)), Parameter(torch.zeros(2))
    weight.grad, bias.grad = torch.tensor([[3.0], [0.0]]), torch.tensor([0.0, 4.0])
    optimizers.clip([weight, bias], 5.0, largest)
    torch.testing.assert_close(weight.grad, factor * torch.tensor([[3.0], [0.0]]))
    torch.testing.assert_close(bias.grad, factor * torch.tensor([0.0, 4.0]))


def test_l2_is_added_to_the_gradient() -> None:
    weight = two()[0]
    weight.grad = torch.ones_like(weight)
    optimizers.add_l2([weight], 0.3)
    torch.testing.assert_close(weight.grad, 1 + 0.3 * weight.detach())


def test_l1_gives_exact_zeros() -> None:
    weight = Parameter(torch.tensor([[-0.5, -0.1, 0.0, 0.05, 0.1, 0.4]]))
    optimizers.soft_threshold([weight], 0.1)
    torch.testing.assert_close(weight.detach(), torch.tensor([[-0.4, 0.0, 0.0, 0.0, 0.0, 0.3]]))
    assert (weight == 0).sum() == 4


def test_the_learning_rate_is_set_in_every_group() -> None:
    optimizer = optimizer_of(two(), name="adamw")
    optimizers.set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]

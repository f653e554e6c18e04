"""The hand-written step: its gradients are autograd's, and it leaves memory as it finds it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from service import network
from service.network import MultiLayerPerceptron
from service.normalization import normalize_hidden
from service.spec import Activation, TrainingSpec
from worker import device as devices
from worker import step
from worker.crew import Crew
from worker.step import Autograd, Backpropagation

CPU = torch.device("cpu")
EXAMPLES = 90


pytestmark = pytest.mark.usefixtures("one_thread")


def spec_of(**fields: Any) -> TrainingSpec:
    return TrainingSpec.model_validate(
        {
            "dataset": {"examples": EXAMPLES},
            "network": {"hidden_widths": [24, 16]},
            "batch_size": 30,
            "precision": "float32",
            **fields,
        }
    )


def regression_of(**fields: Any) -> TrainingSpec:
    dataset = {"name": "simulated", "examples": EXAMPLES}
    return spec_of(dataset=dataset, network={"hidden_widths": [15, 15], "activation": "tanh"}, **fields)


def batch(spec: TrainingSpec, rows: int = 30, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs, *_, outputs = spec.layer_widths
    values = torch.rand(rows, inputs, generator=generator)
    if spec.task_name == "regression":
        return values, torch.rand(rows, outputs, generator=generator)
    return values, torch.randint(0, outputs, (rows,), generator=generator)


def built(spec: TrainingSpec) -> MultiLayerPerceptron:
    """The spec's network in training, with biases that are not all zero."""
    made = network.build(spec).train()
    generator = torch.Generator().manual_seed(5)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0, 0.1, generator=generator)
    return made


def taken(
    spec: TrainingSpec,
    rule: Callable[[TrainingSpec, MultiLayerPerceptron], step.Step],
    rows: int = 30,
) -> list[Tensor]:
    """The loss, and every gradient, of a second batch of another than the first: nothing may be left over."""
    made = built(spec)
    gradients = rule(spec, made).gradients
    batches = [batch(spec, rows)] if step.stays(spec) else [batch(spec, rows // 2, seed=1), batch(spec, rows)]
    for inputs, targets in batches:
        if made.dropout:
            made.seed_dropout(3)
        loss = gradients(inputs, targets)
    return [loss, *(p.grad.clone() for p in made.parameters() if p.grad is not None)]


def assert_equal_to_rounding(spec: TrainingSpec, rows: int = 30) -> None:
    ours, expected = taken(spec, Backpropagation, rows), taken(spec, Autograd, rows)
    assert len(ours) == len(expected) == 1 + 2 * (len(spec.layer_widths) - 1)
    for own, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_every_activations_gradients_are_autograds(activation: Activation, dropout: float) -> None:
    hidden = {"hidden_widths": [24, 16], "activation": activation}
    assert_equal_to_rounding(spec_of(network=hidden, regularization={"dropout": dropout}))


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(regularization={"label_smoothing": 0.2}),
        spec_of(loss="mse"),
        spec_of(network={"hidden_widths": []}),
        spec_of(batch_size="full"),
        spec_of(batch_size="full", loss="mse", regularization={"dropout": 0.2}),
        regression_of(),
        regression_of(batch_size="full"),
    ],
)
def test_every_losss_gradients_are_autograds(spec: TrainingSpec) -> None:
    assert_equal_to_rounding(spec, EXAMPLES if step.stays(spec) else 30)


@pytest.mark.parametrize("batch_size", [30, "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_probabilities_are_learnt_as_autograd_learns_them(batch_size: Any, precision: str) -> None:
    spec = spec_of(batch_size=batch_size, regularization={"label_smoothing": 0.2}, precision=precision)
    rows = EXAMPLES if batch_size == "full" else 30
    inputs, labels = batch(spec, rows)
    wanted = torch.softmax(torch.randn(rows, 10, generator=torch.Generator().manual_seed(1)), 1)
    found = []
    for rule, targets in ((Backpropagation, wanted), (Autograd, wanted), (Autograd, labels)):
        made = built(spec)
        loss = rule(spec, made).gradients(inputs, targets)
        found.append([loss, *(p.grad.clone() for p in made.parameters() if p.grad is not None)])
    for own, other, of_labels in zip(*found, strict=True):
        assert (own - other).norm() <= (1e-5 if precision == "float32" else 0.005) * other.norm()
        assert not torch.equal(own, of_labels)


@pytest.mark.parametrize("batch_size", [30, "full"])
def test_blocks_add_up_to_the_batch(monkeypatch: pytest.MonkeyPatch, batch_size: Any) -> None:
    spec = spec_of(batch_size=batch_size, regularization={"label_smoothing": 0.1})
    monkeypatch.setattr(step, "ROWS", 20)
    assert_equal_to_rounding(spec, 90)
    rounded = spec.model_copy(update={"precision": "bfloat16"})
    ours = taken(rounded, Backpropagation, 90)
    monkeypatch.undo()
    for own, other in zip(ours, taken(rounded, Backpropagation, 90), strict=True):
        assert (own - other).norm() <= 0.01 * other.norm()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch_size", [30, "full"])
@pytest.mark.parametrize("rows", [20, step.ROWS])
@pytest.mark.parametrize("size", [2, 3])
def test_a_crew_takes_the_gradients_that_one_takes(
    monkeypatch: pytest.MonkeyPatch, size: int, rows: int, batch_size: Any, precision: str
) -> None:
    monkeypatch.setattr(step, "ROWS", rows)
    spec = spec_of(
        batch_size=batch_size,
        precision=precision,
        regularization={"dropout": 0.3 if rows > EXAMPLES else 0.0, "label_smoothing": 0.1},
    )
    count = EXAMPLES if batch_size == "full" else 30
    alone = taken(spec, Backpropagation, count)
    with Crew(size) as crew:
        ours = taken(spec, partial(Backpropagation, crew=crew), count)
    for own, other in zip(ours, alone, strict=True):
        assert (own - other).norm() <= (1e-5 if precision == "float32" else 0.01) * other.norm()


def test_targets_may_be_probabilities() -> None:
    spec = spec_of()
    made, other = built(spec), built(spec)
    inputs, _ = batch(spec)
    wanted = torch.rand(30, 10, generator=torch.Generator().manual_seed(4)).softmax(1)
    loss, theirs = Backpropagation(spec, made).gradients(inputs, wanted), Autograd(spec, other).gradients
    torch.testing.assert_close(loss, theirs(inputs, wanted))
    for own, expected in zip(made.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("batch_size", [30, "full"])
def test_bfloat16_rounds_where_autocast_does(activation: Activation, batch_size: Any) -> None:
    spec = spec_of(network={"hidden_widths": [24, 16], "activation": activation}, batch_size=batch_size)
    rows = EXAMPLES if batch_size == "full" else 30
    exact = taken(spec, Autograd, rows)
    rounded = spec.model_copy(update={"precision": "bfloat16"})
    ours, cast = taken(rounded, Backpropagation, rows), taken(rounded, Autograd, rows)
    for own, other, truth in zip(ours, cast, exact, strict=True):
        assert own.dtype == torch.float32
        assert not torch.equal(own, truth)
        assert (own - other).norm() < 0.005 * other.norm()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch_size", [30, "full"])
def test_the_steady_state_allocates_nothing_of_a_batchs_size(precision: str, batch_size: Any) -> None:
    spec = spec_of(network={"hidden_widths": [512, 256]}, precision=precision, batch_size=batch_size)
    made = built(spec)
    rule = Backpropagation(spec, made)
    inputs, targets = batch(spec, EXAMPLES if batch_size == "full" else 30)
    inputs = inputs.to(devices.product_type(spec, CPU))
    places = [p.grad.data_ptr() for p in made.parameters() if p.grad is not None]
    rule.gradients(inputs, targets)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for _ in range(5):
            rule.gradients(inputs, targets)
    # scalars, sums over a layer's rows, and the tile of 60 x 60 in which torch turns a matrix
    assert max(event.self_cpu_memory_usage for event in seen.events()) <= 4 * 60 * 60
    assert places == [p.grad.data_ptr() for p in made.parameters() if p.grad is not None]


def test_the_hand_written_step_is_for_the_plain_network() -> None:
    spec = spec_of()
    assert isinstance(step.make(spec, network.build(spec)), Backpropagation)
    normalized = spec_of(network={"hidden_widths": [24], "normalization": "batch"})
    trained = normalize_hidden(network.build(normalized))
    assert isinstance(step.make(normalized, trained), Autograd)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_auto_is_what_the_machine_multiplies_best(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool
) -> None:
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda _: has_bfloat16)
    best = torch.bfloat16 if has_bfloat16 else torch.float32
    assert devices.product_type(spec_of(precision="auto"), CPU) == best
    assert devices.product_type(regression_of(precision="auto"), CPU) == torch.float32
    assert devices.product_type(regression_of(precision="bfloat16"), CPU) == torch.bfloat16
    assert devices.product_type(spec_of(precision="float32"), CPU) == torch.float32


def test_a_processor_says_itself_what_it_has() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("this system has no /proc/cpuinfo")
    named = set(flags.read_text().split())
    assert devices.multiplies_bfloat16(CPU) == bool(named & {"avx512_bf16", "amx_tile"})

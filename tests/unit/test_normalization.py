import pytest
import torch
from torch import nn

from service import network
from service.network import MultiLayerPerceptron
from service.normalization import NormalizedLinear, normalize_hidden, plain
from service.spec import TrainingSpec


def normalized(*widths: int, activation: str = "relu") -> MultiLayerPerceptron:
    """A network in training, with a scale, a shift and statistics of its own."""
    spec = TrainingSpec.model_validate({"network": {"hidden_widths": widths, "activation": activation}})
    made = normalize_hidden(network.build(spec))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in made.layers:
            if isinstance(layer, NormalizedLinear):
                for tensor in (layer.scale, layer.bias, layer.mean, layer.variance):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return made


def inputs(count: int) -> torch.Tensor:
    return torch.rand(count, 784, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("widths", [(), (5,), (8, 6, 4)])
def test_the_plain_network_computes_the_same(widths: tuple[int, ...]) -> None:
    made = normalized(*widths).eval()
    folded = plain(made)
    assert not any(isinstance(layer, NormalizedLinear) for layer in folded.layers)
    assert network.parameter_count(folded) == made.spec.parameter_count
    with torch.no_grad():
        torch.testing.assert_close(folded.logits(inputs(7)), made.logits(inputs(7)), rtol=1e-4, atol=1e-5)


def test_training_is_that_of_torchs_own_layers() -> None:
    made = normalized(8, 6, activation="tanh").train()
    reference: list[nn.Module] = []
    for layer in made.layers:
        assert isinstance(layer, nn.Linear)
        linear = nn.Linear(layer.in_features, layer.out_features)
        linear.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
        reference.append(linear)
        if isinstance(layer, NormalizedLinear):
            batch = nn.BatchNorm1d(layer.out_features)
            batch.load_state_dict(
                {
                    "weight": layer.scale.detach(),
                    "bias": layer.bias.detach(),
                    "running_mean": layer.mean,
                    "running_var": layer.variance,
                    "num_batches_tracked": torch.tensor(0),
                }
            )
            nn.init.zeros_(linear.bias)  # else their statistics would count it
            reference += [batch, nn.Tanh()]
    theirs = nn.Sequential(*reference)
    torch.testing.assert_close(made.logits(inputs(9)), theirs(inputs(9)))
    made.logits(inputs(9)).square().sum().backward()  # type: ignore[no-untyped-call]
    theirs(inputs(9)).square().sum().backward()
    ours, its = made.layers[1], theirs[4]
    assert isinstance(ours, NormalizedLinear)
    assert isinstance(its, nn.BatchNorm1d)
    torch.testing.assert_close(ours.scale.grad, its.weight.grad)
    torch.testing.assert_close(ours.bias.grad, its.bias.grad)
    torch.testing.assert_close(ours.mean, its.running_mean)
    torch.testing.assert_close(ours.variance, its.running_var)

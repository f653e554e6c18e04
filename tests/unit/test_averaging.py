import numpy as np
import pytest
import torch
from torch import Tensor

from service import network
from service.spec import Averaging, TrainingSpec
from worker.averaging import Average, decay_at


def test_the_decay_rises_to_what_was_asked_for() -> None:
    averaging = Averaging(decay=0.9)
    found = [decay_at(averaging, step) for step in (1, 2, 80, 81, 1000)]
    assert found == pytest.approx([2 / 11, 3 / 12, 0.9, 0.9, 0.9])
    assert decay_at(Averaging(decay=0.0), 5) == 0


def test_the_average_is_that_of_its_formula() -> None:
    spec = TrainingSpec.model_validate({"network": {"hidden_widths": [4]}})
    followed = network.build(spec)
    average = Average(Averaging(decay=0.25), followed)
    wanted = {name: tensor.double().numpy().copy() for name, tensor in followed.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for step, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25)):
        with torch.no_grad():
            for parameter in followed.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        average.update(step)
        for name, tensor in followed.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * tensor.double().numpy()
    for name, tensor in average.network.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), wanted[name], rtol=1e-5, atol=1e-6)


def test_an_average_is_not_trained() -> None:
    followed = network.build(TrainingSpec())
    average = Average(Averaging(), followed)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in followed.parameters())
    own: set[int] = {parameter.data_ptr() for parameter in average.network.parameters()}
    shared: list[Tensor] = [p for p in followed.parameters() if p.data_ptr() in own]
    assert shared == []

import numpy as np
import pytest
import torch
from torch.nn import functional

from service import evaluation, network
from service.evaluation import evaluate, mean_loss
from service.spec import TrainingSpec

GENERATOR = np.random.default_rng(0)
IMAGES = torch.from_numpy(GENERATOR.integers(0, 256, (250, 784), dtype=np.uint8))
LABELS = torch.from_numpy(GENERATOR.integers(0, 10, 250))


def test_loss_and_accuracy_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TrainingSpec.model_validate({"regularization": {"dropout": 0.5}})
    built = network.build(spec)
    built.eval()
    logits = built(IMAGES)
    built.train()
    for chunk in (1000, 250, 64, 7):
        monkeypatch.setitem(evaluation.CHUNK, "cpu", chunk)
        found = evaluate(built, built.normalize(IMAGES), LABELS, "cross_entropy")
        assert found["loss"] == pytest.approx(functional.cross_entropy(logits, LABELS).item(), rel=1e-6)
        assert found["accuracy"] == (logits.argmax(1) == LABELS).double().mean().item()
    assert built.training


def test_a_regression_has_only_a_loss() -> None:
    built = network.build(TrainingSpec.model_validate({"dataset": {"name": "simulated"}}))
    x, y = torch.rand(40, 1), torch.rand(40, 1)
    found = evaluate(built, built.normalize(x), y, "mse")
    assert found == {"loss": pytest.approx(((built(x) - y) ** 2).mean().item(), rel=1e-6)}


def test_losses_are_those_of_torch() -> None:
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    labels = LABELS[:20]
    smoothed = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert mean_loss(logits, labels, "cross_entropy", 0.1) == smoothed
    one_hot = torch.eye(10)[labels]
    spread = one_hot * 0.9 + 0.01
    torch.testing.assert_close(mean_loss(logits, spread, "cross_entropy", 0.5), smoothed)
    torch.testing.assert_close(mean_loss(logits, labels, "mse"), ((logits - one_hot) ** 2).mean())
    assert mean_loss(logits.bfloat16(), labels, "cross_entropy").dtype == torch.float32

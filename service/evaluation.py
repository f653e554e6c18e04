"""How good a network is: loss and accuracy over a set of examples."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from service.network import Network

CHUNK = {"cpu": 1000, "cuda": 20_000}  # rows at once: within a CPU's cache, and enough to fill a GPU

LossName = Literal["cross_entropy", "mse"]


def mean_loss(logits: Tensor, targets: Tensor, loss: LossName, label_smoothing: float = 0.0) -> Tensor:
    """Scalar float32. cross_entropy: mean over the n examples of -log softmax(logits)[target], with
    `label_smoothing` of each label spread over all classes (Szegedy et al. 2016, section 7). mse: mean over
    examples and outputs of the squared difference, against one-hot labels in a classification.

    logits (n, outputs); targets (n,) int64 classes or (n, outputs) float32: of a regression, or for cross_entropy
    the probabilities of the classes, which are taken as they are."""
    if loss == "cross_entropy":
        smoothing = 0.0 if targets.is_floating_point() else label_smoothing
        return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
    if not targets.is_floating_point():
        targets = functional.one_hot(targets, logits.shape[1]).float()
    return functional.mse_loss(logits.float(), targets)


@torch.no_grad()
def outputs(network: Network, inputs: Tensor) -> Tensor:
    """(n, outputs) float32: logits, or a regression's predictions, without dropout. `inputs` (n, inputs) as
    `network.normalize` makes them, on the network's device. The network's training mode is as before
    afterwards."""
    was_training = network.training
    network.eval()
    chunk = CHUNK.get(inputs.device.type, CHUNK["cpu"])
    found = torch.empty(len(inputs), network.spec.layer_widths[-1], device=inputs.device)
    for start in range(0, len(inputs), chunk):
        found[start : start + chunk] = network.logits(inputs[start : start + chunk])
    network.train(was_training)
    return found


@torch.no_grad()
def evaluate(network: Network, inputs: Tensor, targets: Tensor, loss: LossName) -> dict[str, float]:
    """`loss` and, for class labels, `accuracy` (a share) in float32 and without dropout or label
    smoothing. `inputs` and the network as `outputs` has them, n > 0; targets as `mean_loss` has them."""
    logits = outputs(network, inputs)
    value = mean_loss(logits, targets, loss).item()
    if targets.is_floating_point():
        return {"loss": value}
    correct = (logits.argmax(1) == targets).sum().item()
    return {"loss": value, "accuracy": correct / len(targets)}

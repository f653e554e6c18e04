"""How good a network is: loss and accuracy over a set of examples."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from service.network import MultiLayerPerceptron

CHUNK = {"cpu": 1000, "cuda": 20_000}  # rows at once: within a CPU's cache, and enough to fill a GPU

LossName = Literal["cross_entropy", "mse"]


def mean_loss(logits: Tensor, targets: Tensor, loss: LossName, label_smoothing: float = 0.0) -> Tensor:
    """Scalar float32. cross_entropy: mean over the n examples of -log softmax(logits)[target], with
    `label_smoothing` of each label spread over all classes (Szegedy et al. 2016, section 7). mse: mean over
    examples and outputs of the squared difference, against one-hot labels in a classification.

    logits (n, outputs); targets (n,) int64 classes or (n, outputs) float32."""
    if loss == "cross_entropy":
        return functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    if not targets.is_floating_point():
        targets = functional.one_hot(targets, logits.shape[1]).float()
    return functional.mse_loss(logits.float(), targets)


@torch.no_grad()
def evaluate(
    network: MultiLayerPerceptron, inputs: Tensor, targets: Tensor, loss: LossName
) -> dict[str, float]:
    """`loss` and, for class labels, `accuracy` (a share) in float32 and without dropout or label
    smoothing. `inputs` (n, inputs) as `network.normalize` makes them, n > 0, on the network's device;
    targets as `mean_loss` has them. The network's training mode is as before afterwards."""
    was_training = network.training
    network.eval()
    chunk = CHUNK.get(inputs.device.type, CHUNK["cpu"])
    classes = not targets.is_floating_point()
    sums = torch.zeros(2, dtype=torch.float64, device=inputs.device)
    for start in range(0, len(inputs), chunk):
        wanted = targets[start : start + chunk]
        logits = network.logits(inputs[start : start + chunk])
        sums[0] += mean_loss(logits, wanted, loss).double() * len(wanted)
        if classes:
            sums[1] += (logits.argmax(1) == wanted).sum()
    network.train(was_training)
    total, correct = (sums / len(inputs)).tolist()
    return {"loss": total, "accuracy": correct} if classes else {"loss": total}

"""Whether Numeral knows when not to answer: calibration, sets and non-digits, on MNIST's test set.

    python -m bench.confidence

Two networks are trained, one well and one badly, and reported as the worker reports them; what is measured of each is
by halves of the test set that it was not fitted on.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.nondigits import KINDS, LETTERS, LOOKALIKES, drawn
from service import presets
from service.checkpoints import encode_weights
from service.data import datasets
from service.data.datasets import Dataset
from service.data.digits import PREPROCESSING_VERSION, Digit
from service.figures import report
from service.serving import confidence
from service.serving.confidence import Calibration, Predicted
from service.serving.inference import NumpyNetwork
from service.settings import load as load_settings
from service.spec import TrainingSpec
from worker.committee import fit
from worker.device import place

TRAINED: dict[str, dict[str, Any]] = {
    "cpu-minute": {"budget_seconds": None, "epochs": 10, "evaluation": {"every_seconds": None}},
    "slp-200": {},
}
NON_DIGITS = 2000  # in all, as many of each kind
AMBIGUOUS = "letters like digits"  # not among them
BOUNDS = {"coverage": 0.003, "kept": 0.99, "flagged": 0.95}
# one number cannot mend all of a network that is 7.6 % wrong
ERROR_BOUNDS = {"cpu-minute": 0.005, "slp-200": 0.02}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--keep", type=Path, help="folder of weights files: those there are not trained again"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = load_settings()
    data = datasets.load(TrainingSpec().dataset, cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    holds = [measured(name, weights_of(name, data, arguments.keep), data) for name in TRAINED]
    return 0 if all(holds) else 1


def weights_of(name: str, data: Dataset, folder: Path | None) -> bytes:
    """A weights file of the preset, trained shortly."""
    kept = None if folder is None else folder / f"{name}.safetensors"
    if kept is not None and kept.exists():
        return kept.read_bytes()
    spec = presets.with_overrides(presets.PRESETS[name].spec.model_dump(mode="json"), TRAINED[name])
    made = trained(TrainingSpec.model_validate(spec), data)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(made)
    return made


def trained(spec: TrainingSpec, data: Dataset) -> bytes:
    device = torch.device("cpu")
    *_, last = fit(spec, place(data, device), device=device)
    return encode_weights(last.snapshot(), spec, preprocessing=PREPROCESSING_VERSION)


def measured(name: str, weights: bytes, data: Dataset) -> bool:
    """Print what there is to say of a model; whether all bounds hold."""
    made = report.make(weights, data, device=torch.device("cpu"))
    before, after = made.data["calibration"], made.data["calibrated"]
    calibration = Calibration.of_json(made.calibration)
    assert calibration is not None
    accuracy = made.data["parts"]["test"]["accuracy"]
    print(f"\n{name}: {accuracy:.2%} right, temperature {after['temperature']:.3f} ({after['source']})")
    held = [_calibrated(before, after, ERROR_BOUNDS[name]), _covered(after)]
    held.append(_said("digits kept", after["digits_kept"], BOUNDS["kept"], above=True))
    network = NumpyNetwork.from_checkpoint(weights)
    held.append(_flagged(network, calibration))
    return all(held)


def _calibrated(before: Mapping[str, Any], after: Mapping[str, Any], bound: float) -> bool:
    for key in ("negative_log_likelihood", "brier_score"):
        print(f"  {key}: {before[key]:.4f}, calibrated {after[key]:.4f}")
    error = "expected_calibration_error"
    print(f"  {error}: {before[error]:.2%}")
    return _said("  calibrated", after[error], bound, above=False)


def _covered(after: Mapping[str, Any]) -> bool:
    for row in after["coverage"]:
        print(
            f"  sets of {row['coverage']:.1%}: cover {row['covered']:.2%}, {row['mean_size']:.3f} labels, "
            f"{row['empty']:.2%} empty"
        )
    (row,) = (row for row in after["coverage"] if row["coverage"] == 0.99)
    distance = abs(row["covered"] - 0.99)
    return _said("distance of the 99 % sets' coverage", distance, BOUNDS["coverage"], above=False)


def _flagged(network: NumpyNetwork, calibration: Calibration) -> bool:
    kinds = [kind for kind in KINDS if kind != AMBIGUOUS]
    shares = {
        kind: _share(network, calibration, drawn(kind, NON_DIGITS // len(kinds), seed=1)) for kind in kinds
    }
    shares[AMBIGUOUS] = _share(network, calibration, drawn(AMBIGUOUS, NON_DIGITS // len(kinds), seed=1))
    for kind, (flagged, doubtful) in shares.items():
        print(f"  {kind}: {flagged:.1%} flagged, {doubtful:.1%} flagged or less sure than 0.9")
    print(f"  letters are {LETTERS}; those like digits are {LOOKALIKES}")
    total = float(np.mean([shares[kind][0] for kind in kinds]))
    return _said("non-digits flagged, without letters like digits", total, BOUNDS["flagged"], above=True)


def _share(network: NumpyNetwork, calibration: Calibration, pictures: list[Digit]) -> tuple[float, float]:
    pixels = np.stack([picture.pixels for picture in pictures])
    found: Predicted = confidence.predicted(network.logits(pixels), pixels, calibration)
    flagged = found.flagged | np.array(["blank" in picture.warnings for picture in pictures])
    return float(flagged.mean()), float((flagged | (found.probabilities.max(axis=1) < 0.9)).mean())


def _said(what: str, value: float, bound: float, *, above: bool) -> bool:
    holds = value >= bound if above else value <= bound
    sign = ">=" if above else "<="
    print(f"  {what}: {value:.2%} ({'holds' if holds else 'MISSES'} {sign} {bound:.1%})")
    return holds


if __name__ == "__main__":
    sys.exit(main())

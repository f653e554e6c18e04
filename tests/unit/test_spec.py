"""The contract: what a spec refuses and how it says so, and what it counts without building anything."""

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.errors import Invalid, NotFound
from service.presets import LECTURE, PRESETS, find, with_overrides
from service.spec import Augmentation, Committee, TrainingSpec, parse

BUDGET = 200_000_000
UPLOAD = {"id": f"ds_{0:032}", "sha256": "0" * 64, "train_examples": 40, "test_examples": 0}


def mistakes(payload: object) -> dict[str, str]:
    """Pointer -> sentence."""
    with pytest.raises(Invalid) as refusal:
        parse(payload, max_parameters=BUDGET)
    return {item.pointer: item.detail for item in refusal.value.errors}


def test_an_empty_object_is_a_spec() -> None:
    spec = parse({}, max_parameters=BUDGET)
    assert (spec.task_name, spec.loss_name, spec.parameter_count) == (
        "classification",
        "cross_entropy",
        25_450,
    )


@pytest.mark.parametrize(
    ("payload", "pointer", "said"),
    [
        ({"netwrok": {}}, "#/netwrok", "no such field"),
        ({"network": {"hiden": 3}}, "#/network/hiden", "no such field"),
        ({"network": {"hidden_widths": [10, 0]}}, "#/network/hidden_widths/1", "1"),
        ({"network": {"hidden_widths": ["32"]}}, "#/network/hidden_widths/0", "integer"),
        ({"network": {"hidden_widths": [1] * 129}}, "#/network/hidden_widths", "128"),
        ({"network": {"hidden_widths": [10**9]}}, "#/network/hidden_widths", "200,000,000"),
        ({"network": {"activation": "RELU"}}, "#/network/activation", "relu"),
        ({"network": {"initializer_scale": 0.1}}, "#/network/initializer_scale", "uniform or normal"),
        ({"dataset": {"name": "cifar"}}, "#/dataset/name", "mnist"),
        ({"dataset": {"noise": 0.1}}, "#/dataset/noise", "simulated"),
        ({"dataset": {"validation": 60_000}}, "#/dataset/validation", "fewer"),
        ({"dataset": {"examples": 60_001}}, "#/dataset/examples", "60,000"),
        ({"dataset": {"uploads": ["ds_1"]}}, "#/dataset/uploads/0", "object"),
        ({"dataset": {"uploads": [UPLOAD, UPLOAD]}}, "#/dataset/uploads", "once"),
        ({"dataset": {"uploads": [UPLOAD], "validation": 60_000}}, "#/dataset/validation", "fewer"),
        ({"dataset": {"name": "uploaded"}}, "#/dataset/uploads", "at least one"),
        ({"dataset": {"name": "uploaded", "uploads": [UPLOAD]}}, "#/dataset/uploads", "no test examples"),
        (
            {"dataset": {"name": "uploaded", "examples": 3, "uploads": [UPLOAD]}},
            "#/dataset/examples",
            "whole",
        ),
        ({"dataset": {"name": "simulated", "uploads": [UPLOAD]}}, "#/dataset/uploads", "leave it out"),
        ({"task": "regression"}, "#/task", "classification"),
        ({"committee": {"members": 1}}, "#/committee/members", "2"),
        ({"committee": {"members": 65}}, "#/committee/members", "64"),
        ({"dataset": {"name": "simulated"}, "committee": {}}, "#/committee", "leave it out"),
        ({"loss": "mse", "committee": {}}, "#/loss", "use cross_entropy"),
        ({"dataset": {"name": "simulated"}, "distillation": {}}, "#/distillation", "leave it out"),
        ({"loss": "mse", "distillation": {}}, "#/loss", "use that"),
        ({"distillation": {"teacher": ""}}, "#/distillation/teacher", "pattern"),
        ({"distillation": {"share": 1.1}}, "#/distillation/share", "1"),
        ({"distillation": {"temperature": 0}}, "#/distillation/temperature", "0"),
        (
            {"dataset": {"validation": 9}, "early_stopping": {}, "committee": {}},
            "#/early_stopping",
            "set this to null",
        ),
        ({"dataset": {"name": "simulated"}, "loss": "cross_entropy"}, "#/loss", "mse"),
        (
            {"loss": "mse", "regularization": {"label_smoothing": 0.1}},
            "#/regularization/label_smoothing",
            "0",
        ),
        ({"optimizer": {"name": "sgd", "nesterov": True}}, "#/optimizer/nesterov", "momentum"),
        ({"optimizer": {"name": "sgd", "beta1": 0.5}}, "#/optimizer/beta1", "no such field"),
        ({"optimizer": {"learning_rate": 0.1}}, "#/optimizer/name", "adamw"),
        (
            {"optimizer": {"name": "muon"}, "network": {"hidden_widths": []}},
            "#/network/hidden_widths",
            "hidden layers",
        ),
        ({"optimizer": {"name": "lion"}}, "#/optimizer/name", "sgd"),
        ({"optimizer": {"name": "adam", "learning_rate": math.nan}}, "#/optimizer/learning_rate", "finite"),
        ({"optimizer": {"name": "adam", "learning_rate": math.inf}}, "#/optimizer/learning_rate", "finite"),
        ({"optimizer": {"name": "adam", "learning_rate": "0.1"}}, "#/optimizer/learning_rate", "number"),
        ({"schedule": {"name": "cosine", "warmup_steps": 10**7}}, "#/schedule/warmup_steps", "fewer"),
        ({"batch_size": 60_001}, "#/batch_size", "60,000"),
        ({"network": {"normalization": "batch"}, "batch_size": 1}, "#/batch_size", "one example"),
        ({"network": {"normalization": "batch"}, "batch_size": 59_999}, "#/batch_size", "one example"),
        ({"network": {"normalization": "layer"}}, "#/network/normalization", "batch"),
        ({"batch_size": "half"}, "#/batch_size", "full"),
        ({"batch_size": True}, "#/batch_size", "full"),
        ({"epochs": 3, "steps": 3}, "#/steps", "null"),
        ({"epochs": 3, "budget_seconds": 60.0}, "#/budget_seconds", "null"),
        ({"steps": 3, "budget_seconds": 60.0}, "#/budget_seconds", "null"),
        ({"budget_seconds": 0.5}, "#/budget_seconds", "1"),
        ({"budget_seconds": 60.0, "max_runtime_seconds": 60.0}, "#/max_runtime_seconds", "fit into it"),
        ({"epochs": 10**8, "batch_size": 1}, "#/epochs", "fewer"),
        ({"augmentation": {"rotation": 181}}, "#/augmentation/rotation", "180"),
        ({"augmentation": {"spin": 1}}, "#/augmentation/spin", "no such field"),
        ({"augmentation": {"classes": {"11": {}}}}, "#/augmentation/classes/11", "'9'"),
        ({"augmentation": {"classes": {"1": {"shift": 15}}}}, "#/augmentation/classes/1/shift", "14"),
        ({"augmentation": {"amplitude": [[0, 1], [0, 0.5]]}}, "#/augmentation/amplitude", "rise"),
        ({"augmentation": {"amplitude": [[0, 1.5]]}}, "#/augmentation/amplitude/0/1", "1"),
        ({"augmentation": {"amplitude": []}}, "#/augmentation/amplitude", "1"),
        (
            {"augmentation": {"rotation": 9, "shift": 1, "resampling": "forward_nearest"}},
            "#/augmentation/resampling",
            "bilinear",
        ),
        (
            {"augmentation": {"rotation": 9, "rotation_or_shear": True}},
            "#/augmentation/rotation_or_shear",
            "set rotation and shear",
        ),
        ({"augmentation": {}, "dataset": {"name": "simulated"}}, "#/augmentation", "leave it out"),
        ({"dataset": {"draw_seed": 1}}, "#/dataset/draw_seed", "simulated"),
        (
            {"schedule": {"name": "exponential", "factor": 0.9, "final_fraction": 0.1}},
            "#/schedule/final_fraction",
            "one of the two",
        ),
        (
            {"regularization": {"max_gradient_norm": 0}},
            "#/regularization/max_gradient_norm",
            "greater than 0",
        ),
        ({"averaging": {"decay": 1.0}}, "#/averaging/decay", "less than 1"),
        ({"averaging": {"evaluate": "best"}}, "#/averaging/evaluate", "newest"),
        ({"early_stopping": {}}, "#/early_stopping/monitor", "dataset.validation"),
        ({"evaluation": {"every_steps": 1, "every_epochs": 1}}, "#/evaluation/every_epochs", "one cadence"),
        (
            {
                "early_stopping": {},
                "dataset": {"validation": 100},
                "evaluation": {"every_seconds": 1.0},
            },
            "#/evaluation/every_seconds",
            "every_steps",
        ),
        (
            {
                "early_stopping": {"monitor": "validation_accuracy"},
                "dataset": {"name": "simulated", "validation": 10},
            },
            "#/early_stopping/monitor",
            "validation_loss",
        ),
        (
            {"dataset": {"name": "simulated"}, "network": {"input_normalization": "symmetric"}},
            "#/network/input_normalization",
            "standardize",
        ),
        ({"seed": -1}, "#/seed", "0"),
        ({"seed": 2**63}, "#/seed", str(2**63)),
        ([1, 2], "#", "object"),
        (None, "#", "object"),
    ],
)
def test_each_mistake_points_at_its_field(payload: object, pointer: str, said: str) -> None:
    found = mistakes(payload)
    assert pointer in found
    assert said in found[pointer]


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes({"seed": -1, "epochs": 0, "network": {"activation": "x"}})
    assert set(found) == {"#/seed", "#/epochs", "#/network/activation"}


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError):
        TrainingSpec().seed = 1  # type: ignore[misc]


@given(
    widths=st.lists(st.integers(1, 50), max_size=4),
    batch=st.one_of(st.just("full"), st.integers(1, 500)),
    passes=st.integers(1, 3),
    epochs=st.integers(1, 5),
)
def test_the_plan_and_the_count_follow_from_the_spec(
    widths: list[int], batch: Any, passes: int, epochs: int
) -> None:
    spec = TrainingSpec.model_validate(
        {
            "dataset": {"examples": 500},
            "network": {"hidden_widths": widths},
            "batch_size": batch,
            "passes_per_epoch": passes,
            "epochs": epochs,
        }
    )
    size = 500 if batch == "full" else batch
    assert spec.plan.steps == math.ceil(500 / size) * passes * epochs
    assert spec.plan.epochs == epochs
    layers = [784, *widths, 10]
    expected = sum(a * b + b for a, b in pairwise(layers))
    assert spec.parameter_count == expected
    again = TrainingSpec.model_validate(json.loads(spec.canonical_json()))
    assert again == spec
    assert again.canonical_json() == spec.canonical_json()


def test_the_steps_of_a_budget_are_not_known_before_they_are_fixed() -> None:
    spec = TrainingSpec.model_validate(
        {"budget_seconds": 60.0, "schedule": {"name": "cosine", "warmup_steps": 9}}
    )
    assert (spec.planned, spec.batching.steps_per_epoch, spec.batching.epoch_of(900)) == (None, 600, 1.5)
    assert spec.memory_bytes == TrainingSpec().memory_bytes
    with pytest.raises(ValueError, match="not known"):
        _ = spec.plan
    fixed = spec.with_steps(900)
    assert (fixed.plan.steps, fixed.plan.epochs, fixed.budget_seconds) == (900, 1.5, None)
    assert TrainingSpec.model_validate(json.loads(fixed.canonical_json())) == fixed


def test_the_lectures_counts() -> None:
    counts = {name: preset.spec.parameter_count for name, preset in LECTURE.items()}
    assert counts == {
        "simulated-wide": 46,
        "simulated-deep": 34,
        "slp-200": 25_450,
        "slp-8200": 25_450,
        "slp-early-stopping": 25_450,
        "cmgsnet": 11_972_510,
        "cmgsnet-rotated": 11_972_510,
        "cmgsnet-rotated-lecture": 11_972_510,
        "ciresan-2010": 11_972_510,
    }


def test_the_deep_presets_take_the_lectures_steps() -> None:
    steps = {name: PRESETS[name].spec.plan.steps for name in ("cmgsnet", "cmgsnet-rotated")}
    assert steps == {"cmgsnet": 15 * 10 * 6, "cmgsnet-rotated": 10 * 10 * 6}


def test_a_committee_counts_every_member() -> None:
    alone = TrainingSpec.model_validate({"averaging": {}, "augmentation": {"elastic": 1}})
    three = TrainingSpec.model_validate(
        {"averaging": {}, "augmentation": {"elastic": 1}, "committee": {"members": 3}}
    )
    assert (three.network_count, three.parameter_count) == (3, 3 * alone.parameter_count)
    dataset = 70_000 * 785
    evaluated = 4 * three.parameter_count
    assert three.memory_bytes - dataset == 3 * (alone.memory_bytes - dataset) + evaluated
    assert (
        "use narrower or fewer layers, or members"
        in mistakes({"network": {"hidden_widths": [10_000, 10_000]}, "committee": {"members": 2}})[
            "#/network/hidden_widths"
        ]
    )


def test_each_member_is_a_job_of_its_own() -> None:
    spec = TrainingSpec.model_validate({"committee": {"members": 3}, "seed": 7, "epochs": 2})
    seeds = [one.seed for one in spec.networks]
    assert len({7, *seeds}) == 4
    for one in spec.networks:
        assert one == TrainingSpec.model_validate({"seed": one.seed, "epochs": 2})
    assert PRESETS["committee"].spec.parameter_count == 5 * 1_276_810
    more = spec.model_copy(update={"committee": Committee(members=5)})
    assert more.networks[:3] == spec.networks, "a larger committee begins with the members of a smaller one"
    assert TrainingSpec().networks == (TrainingSpec(),)


def test_an_amplitude_is_joined_by_straight_lines() -> None:
    block = Augmentation.model_validate({"amplitude": [[0.2, 0.5], [0.6, 1], [1, 0]]})
    found = [block.factor(progress) for progress in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    assert found == pytest.approx([0.5, 0.5, 0.75, 1, 0.5, 0])


def test_memory_counts_what_a_pass_of_elastic_deformations_draws() -> None:
    plain = TrainingSpec.model_validate({})
    normalized = 4 * 60_000 * 784  # kept where every pass takes the same images
    for sigma, rank in ((2.0, 13), (6.0, 6), (12.0, 4)):
        elastic = TrainingSpec.model_validate({"augmentation": {"elastic": 1, "elastic_sigma": sigma}})
        drawn = 4 * 60_000 * (7 + 2 * rank**2)  # of the rank that service.data.augment takes
        assert drawn <= elastic.memory_bytes - (plain.memory_bytes - normalized) <= 3 * drawn


def test_a_class_takes_what_it_does_not_set_from_the_others() -> None:
    block = Augmentation.model_validate(
        {"rotation": 15, "shear": 10, "classes": {"1": {"rotation": 0}, "7": {"shear": 5}}}
    )
    assert [block.limit("rotation", label) for label in (0, 1, 7)] == [15, 0, 15]
    assert [block.limit("shear", label) for label in (0, 1, 7)] == [10, 10, 5]


def test_every_field_says_what_it_is() -> None:
    schema = TrainingSpec.model_json_schema()
    blocks = [("TrainingSpec", schema), *schema["$defs"].items()]
    for name, block in blocks:
        for field, described in block.get("properties", {}).items():
            refers = "$ref" in described or field == "name"  # whose block speaks for it
            assert described.get("description") or refers, f"{name}.{field}"


def test_overrides_are_laid_over_block_by_block() -> None:
    base = find("slp-200").spec.model_dump(mode="json")
    merged = with_overrides(base, {"seed": 3, "network": {"activation": "tanh"}})
    assert merged["network"]["hidden_widths"] == [32]
    assert (merged["network"]["activation"], merged["seed"], base["seed"]) == ("tanh", 3, 6)
    other = with_overrides(base, {"optimizer": {"name": "sgd", "learning_rate": 0.1}})
    assert other["optimizer"] == {"name": "sgd", "learning_rate": 0.1}
    parse(other, max_parameters=BUDGET)


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(NotFound, match="slp-200"):
        find("slp-201")

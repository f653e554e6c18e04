"""From a base and what varies to members: all of them, in order, and each mistake where it was made."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service import sweep
from service.errors import Invalid
from service.presets import PRESETS
from service.spec import TrainingSpec
from service.sweep import Draw, Grid, Member

BASE = TrainingSpec()
BUDGET = 1_000_000


def grid(fields: Grid, base: TrainingSpec = BASE, *, elsewhere: str = "#/spec") -> list[Member]:
    return sweep.of_grid(base, fields, elsewhere=elsewhere, max_parameters=BUDGET)


def draw(fields: Mapping[str, Any], *, count: int, seed: int = 0) -> list[Member]:
    draws = {field: Draw.model_validate(value) for field, value in fields.items()}
    return sweep.at_random(BASE, draws, count=count, seed=seed, elsewhere="#/spec", max_parameters=BUDGET)


def mistakes(refusal: pytest.ExceptionInfo[Invalid]) -> dict[str, str]:
    return {item.pointer: item.detail for item in refusal.value.errors}


def test_a_grid_has_every_combination_the_last_field_fastest() -> None:
    members = grid({"optimizer.learning_rate": [0.1, 0.01], "seed": [0, 1, 2]})
    assert [tuple(member.changes.values()) for member in members] == [
        (0.1, 0), (0.1, 1), (0.1, 2), (0.01, 0), (0.01, 1), (0.01, 2),
    ]  # fmt: skip
    for member in members:
        expected = BASE.model_copy(
            update={
                "seed": member.changes["seed"],
                "optimizer": BASE.optimizer.model_copy(
                    update={"learning_rate": member.changes["optimizer.learning_rate"]}
                ),
            }
        )
        assert member.spec == expected


def test_changes_are_laid_over_the_base_as_over_a_preset() -> None:
    base = PRESETS["slp-200"].spec
    members = grid(
        {
            "optimizer": [{"name": "sgd", "momentum": 0.9}, {"name": "adam", "beta1": 0.8}],
            "augmentation": [None, {"rotation": 10.0}],
            "network.hidden_widths": [[], [8, 8]],
        },
        base,
    )
    assert len(members) == 8
    assert {member.spec.steps for member in members} == {200}
    optimizers = [member.spec.optimizer.model_dump(exclude_unset=True) for member in members[::4]]
    assert optimizers[0] == {"name": "sgd", "momentum": 0.9}  # another name: replaced whole
    assert optimizers[1]["learning_rate"] == base.optimizer.learning_rate  # the same: laid over
    assert [member.spec.network.hidden_widths for member in members[:2]] == [(), (8, 8)]
    assert [member.spec.augmentation is None for member in members[:4]] == [True, True, False, False]


def test_a_block_and_a_field_of_its_class_may_vary() -> None:
    members = grid({"augmentation.classes.1.rotation": [5.0, 7.5]})
    limits = [member.spec.augmentation.limit("rotation", 1) for member in members if member.spec.augmentation]
    assert limits == [5.0, 7.5]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("optimiser.learning_rate", "no field 'optimiser' in a spec; there are augmentation, averaging"),
        ("optimizer.rate", "no field 'rate' in optimizer; there are adam_learning_rate"),
        ("network.hidden_widths.0", "vary network.hidden_widths"),
        ("seed.x", "vary seed"),
        ("augmentation.classes.x", "no field 'x' in augmentation.classes; there are 0, 1"),
        ("", "no field ''"),
        ("network.", "no field '' in network"),
        ("a~b/c", "no field 'a~b/c'"),
    ],
)
def test_a_field_that_does_not_exist_is_named_with_those_that_do(field: str, said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"seed": [1], field: [1]})
    ((pointer, detail),) = mistakes(refusal).items()
    assert pointer == "#/grid/" + field.replace("~", "~0").replace("/", "~1")
    assert said in detail
    assert refusal.value.code == "unknown_field"


def test_a_field_within_one_that_varies_is_refused() -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"optimizer": [{"name": "sgd"}], "optimizer.learning_rate": [0.1]})
    assert "lies within optimizer" in mistakes(refusal)["#/grid/optimizer.learning_rate"]


def test_each_mistake_is_told_once_with_its_first_member() -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"optimizer.learning_rate": [0.1, -1.0, "x"], "seed": [0, 1, 2.5]})
    found = mistakes(refusal)
    assert found.keys() == {
        "#/grid/seed/2",
        "#/grid/optimizer.learning_rate/1",
        "#/grid/optimizer.learning_rate/2",
    }
    assert found["#/grid/optimizer.learning_rate/1"].startswith(
        "member 3 and 2 more: optimizer.learning_rate=-1.0:"
    )
    assert found["#/grid/seed/2"].startswith("member 2 and 2 more: seed=2.5:")


def test_a_mistake_within_a_block_is_pointed_into() -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"network": [{"hidden_widths": [3]}, {"hidden_widths": [3, 0]}]})
    assert list(mistakes(refusal)) == ["#/grid/network/1/hidden_widths/1"]


def test_a_field_that_only_another_optimizer_has() -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"optimizer.name": ["sgd", "adam"], "optimizer.momentum": [0.9]})
    ((pointer, detail),) = mistakes(refusal).items()
    assert pointer == "#/grid/optimizer.momentum/0"
    assert detail.startswith("member 1: optimizer.momentum=0.9: there is no such field")


@pytest.mark.parametrize(
    ("elsewhere", "pointer"),
    [("#/spec", "#/spec/schedule/warmup_steps"), ("#/preset", "#/preset"), ("#", "#")],
)
def test_a_mistake_of_the_base_with_a_change(elsewhere: str, pointer: str) -> None:
    base = TrainingSpec.model_validate({"steps": 100, "schedule": {"name": "cosine", "warmup_steps": 50}})
    with pytest.raises(Invalid) as refusal:
        grid({"steps": [100, 10]}, base, elsewhere=elsewhere)
    assert mistakes(refusal) == {
        pointer: "member 1: schedule.warmup_steps: the run has only 10 steps: warm up for fewer"
    }


def test_a_network_over_the_budget() -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"network.hidden_widths": [[8], [100_000]]})
    assert refusal.value.code == "parameter_budget"
    assert list(mistakes(refusal)) == ["#/grid/network.hidden_widths/1"]


def test_values_that_are_there_twice() -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"seed": [0, 1, 0], "network": [{"activation": "relu"}, {"activation": "relu"}]})
    assert mistakes(refusal) == {
        "#/grid/seed/2": "is the same as the value at 0",
        "#/grid/network/1": "is the same as the value at 0",
    }


def test_members_whose_specs_are_equal() -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"optimizer.learning_rate": [1, 1.0]})
    assert "its spec is that of member 0" in mistakes(refusal)["#/grid"]


def test_numbers_that_no_database_stores() -> None:
    with pytest.raises(Invalid) as refusal:
        grid({"optimizer.learning_rate": [0.1, float("inf")]})
    assert "infinite" in mistakes(refusal)["#/grid/optimizer.learning_rate/1"]
    with pytest.raises(Invalid) as refusal:
        draw({"optimizer.learning_rate": {"choices": [0.1, float("nan")]}}, count=1)
    assert "infinite" in mistakes(refusal)["#/random/optimizer.learning_rate/choices/1"]


def test_a_hostile_grid_is_not_read_to_its_end() -> None:
    blocks = {f"x{number}": 1 for number in range(2000)}
    with pytest.raises(Invalid) as refusal:
        grid({"network": [blocks], "seed": list(range(100_000))})
    assert len(refusal.value.errors) == 2000


def test_draws_lie_within_their_limits_and_vary() -> None:
    members = draw(
        {
            "optimizer.learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
            "regularization.dropout": {"low": 0, "high": 0.5},
            "batch_size": {"low": 16, "high": 17, "integer": True},
            "network.activation": {"choices": ["relu", "tanh"]},
        },
        count=200,
    )
    assert len(members) == 200
    rates = sorted(member.changes["optimizer.learning_rate"] for member in members)
    assert 1e-4 <= rates[0] < 2e-4
    assert 0.05 < rates[-1] <= 0.1
    assert 1.5e-3 < rates[100] < 6e-3, "half of them under the middle of the logarithm"
    assert {member.changes["batch_size"] for member in members} == {16, 17}
    assert {member.changes["network.activation"] for member in members} == {"relu", "tanh"}
    assert all(0 <= member.changes["regularization.dropout"] <= 0.5 for member in members)
    assert len({member.spec.sha256 for member in members}) == 200


def test_a_larger_count_begins_with_a_smaller_one() -> None:
    fields = {
        "seed": {"low": 0, "high": 10**9, "integer": True},
        "network.hidden_widths": {"choices": [[4], [8]]},
    }
    few, many, other = draw(fields, count=5), draw(fields, count=50), draw(fields, count=5, seed=1)
    assert many[:5] == few
    assert other != few
    without = draw({"seed": fields["seed"]}, count=5)
    assert [one.changes["seed"] for one in without] == [one.changes["seed"] for one in few]


def test_all_that_can_be_drawn_is_found_and_no_more() -> None:
    fields = {
        "seed": {"low": 0, "high": 63, "integer": True},
        "network.activation": {"choices": ["relu", "tanh"]},
    }
    assert len(draw(fields, count=128)) == 128
    with pytest.raises(Invalid) as refusal:
        draw(fields, count=129)
    assert refusal.value.code == "too_few_choices"
    assert "only 128" in mistakes(refusal)["#/count"]


def test_a_drawn_mistake_points_at_the_draw() -> None:
    with pytest.raises(Invalid) as refusal:
        draw({"batch_size": {"low": 1, "high": 1_000_000, "integer": True}}, count=40)
    assert mistakes(refusal).keys() == {"#/random/batch_size"}
    assert all("batch_size=" in item.detail for item in refusal.value.errors)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"low": 1},
        {"low": 2, "high": 1},
        {"low": 1, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 0.5, "high": 3, "integer": True},
        {"low": 0, "high": float("inf")},
        {"choices": []},
        {"choices": [1], "log": True},
        {"choices": [1], "low": 0},
        {"low": "0", "high": 1},
        {"low": 0, "high": 1, "step": 1},
    ],
)
def test_what_is_no_draw(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Draw.model_validate(wrong)


@given(
    st.integers(-1000, 1000),
    st.integers(1, 2000),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
)
def test_a_draw_never_leaves_its_limits(low: int, width: int, log: bool, share: float, integer: bool) -> None:
    low = abs(low) + 1 if log else low
    drawn = Draw(low=low, high=low + width, log=log, integer=integer).at(share)
    assert low <= drawn <= low + width
    assert isinstance(drawn, int) == integer


def test_both_ends_of_whole_numbers_are_drawn_as_often() -> None:
    found = [Draw(low=1, high=4, integer=True).at(n / 1000) for n in range(1000)]
    assert [found.count(value) for value in (1, 2, 3, 4)] == [250] * 4


def test_every_field_of_the_default_spec_may_vary() -> None:
    def paths(block: Mapping[str, Any], before: str = "") -> list[str]:
        found = []
        for name, value in block.items():
            found.append(before + name)
            if isinstance(value, dict):
                found += paths(value, f"{before}{name}.")
        return found

    for path in paths(BASE.model_dump(mode="json")):
        node: Any = BASE.model_dump(mode="json")
        for part in path.split("."):
            node = node[part]
        (member,) = grid({path: [node]})
        assert member.spec == BASE

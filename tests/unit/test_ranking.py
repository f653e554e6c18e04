"""Who is best, by which metric, and what is said of it."""

import pytest

from service.figures import ranking
from service.spec import TrainingSpec


def test_ranks_are_best_first_and_shared() -> None:
    values = [0.9, None, 0.95, 0.9, 0.1]
    assert ranking.ranks(values, "validation_accuracy") == [2, None, 1, 2, 4]
    assert ranking.ranks(values, "validation_loss") == [2, None, 4, 2, 1]


def test_held_out_data_choose_and_the_test_set_comes_with_a_warning() -> None:
    held = [TrainingSpec.model_validate({"dataset": {"validation": count}}) for count in (10_000, 5_000)]
    some = [*held, TrainingSpec()]
    regression = [TrainingSpec.model_validate({"dataset": {"name": "simulated"}})]
    metrics = [ranking.usual_metric(specs) for specs in (held, some, regression)]
    assert metrics == ["validation_accuracy", "test_accuracy", "test_loss"]
    assert ranking.warning("validation_accuracy") is None
    assert "validation" in (ranking.warning("test_loss") or "")
    assert "training set" in (ranking.warning("train_loss") or "")


def test_members_that_differ_in_their_seed_alone_are_told_by_their_mean() -> None:
    changes = [{"a": a, "seed": seed} for a in (1, 2, 3) for seed in (0, 1)]
    values = [0.8, 0.9, 0.95, None, None, None]
    found = ranking.over_seeds(changes, values, "validation_accuracy")
    assert [(one.changes, one.count, one.mean) for one in found] == [
        ({"a": 2}, 1, 0.95),
        ({"a": 1}, 2, pytest.approx(0.85)),
    ]
    assert found[0].deviation is None
    assert found[1].deviation == pytest.approx(0.0707107)
    assert [one.changes["a"] for one in ranking.over_seeds(changes, values, "validation_loss")] == [1, 2]
    assert ranking.over_seeds([{"a": 1, "seed": 0}, {"a": 2, "seed": 1}], [0.1, 0.2], "test_loss") == []
    (alone,) = ranking.over_seeds([{"seed": 0}, {"seed": 1}], [0.1, 0.3], "test_loss")
    assert alone.changes == {}
    assert alone.mean == pytest.approx(0.2)

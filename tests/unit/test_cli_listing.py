"""Which columns tell runs apart."""

from typing import Any

import pytest

from sexton import errors
from sexton.cli import listing
from sexton.model.runs import Page, Run, Summary


def _run(number: int, **fields: Any) -> Run:
    said: dict[str, Any] = {"state": "finished", "created_at": 0, "project": "default", "experiment": "digits"}
    return Run(id=f"run{number:09}", **(said | fields))


def _titles(runs: list[Run]) -> list[str]:
    return [column.title for column in listing.columns(runs, now=0, narrow=True)]


def test_params_that_are_the_same_everywhere_are_left_out() -> None:
    runs = [_run(i, params={"lr": 0.1 * i, "seed": 7, "kernel": "rbf"}) for i in range(3)]
    assert listing.varying_params(runs) == ["lr"]


def test_a_param_that_some_runs_lack_tells_them_apart() -> None:
    runs = [_run(1, params={"lr": 1, "C": 10}), _run(2, params={"lr": 1})]
    assert listing.varying_params(runs) == ["C"]


def test_params_with_several_values_come_before_those_that_are_only_missing_somewhere() -> None:
    runs = [_run(1, params={"a": 1, "z": 1, "y": 1}), _run(2, params={"a": 1, "z": 2}), _run(3, params={"y": 2})]
    assert listing.varying_params(runs) == ["y", "z", "a"]


def test_one_run_shows_all_its_params() -> None:
    assert listing.varying_params([_run(1, params={"b": 1, "a": 2})]) == ["a", "b"]


def test_metrics_with_a_direction_come_first() -> None:
    plain = Summary(last=1.0, min=0.0, max=2.0, count=3)
    best = Summary(last=1.0, min=0.0, max=2.0, count=3, direction="min", best=0.0)
    runs = [_run(1, metrics={"a": plain, "z": best}), _run(2, metrics={"a": plain})]
    assert listing.ranked_metrics(runs) == ["z", "a"]


def test_the_best_value_of_a_directed_metric_is_shown_and_marked() -> None:
    def summary(best: float | str) -> Summary:
        return Summary(last=9.0, min=best, max=9.0, count=3, direction="min", best=best)

    runs = [_run(1, metrics={"loss": summary(0.5)}), _run(2, metrics={"loss": summary(0.25)})]
    runs.append(_run(3, metrics={"loss": summary("NaN")}))
    column = next(c for c in listing.columns(runs, now=0, narrow=True) if c.title == "loss ↓")
    assert [tuple(cell) for cell in column.cells] == [("0.5", ""), ("0.25", "bold green"), ("nan", "")]


def test_an_experiment_that_all_share_is_in_the_footer_not_in_a_column() -> None:
    same, other = [_run(1), _run(2)], [_run(1), _run(2, experiment="cancer")]
    assert "experiment" not in _titles(same)
    assert "experiment" in _titles(other)
    assert listing.footer(Page(same, 340), 3, []) == "2 of 340 runs in digits · 3 running · sexton show ID"
    assert listing.footer(Page(other, 2), 0, ["C"]) == "2 runs · no room for C · sexton show ID"


def test_columns_can_be_chosen() -> None:
    run = _run(1, params={"a.b": 1}, tags={"tier": "x"}, metrics={"val/acc": Summary(0.5, 0.5, 0.5, 1)})
    names = ["id", "params.a.b", "metrics.val/acc", "tags.tier", "params.none"]
    chosen = listing.chosen_columns(names, [run], now=0)
    cells = [cell if isinstance(cell, str) else cell.text for column in chosen for cell in column.cells]
    assert cells == ["run00000", "1", "0.5", "x", "-"]
    with pytest.raises(errors.InvalidValue, match=r"metrics\.NAME"):
        listing.chosen_columns(["colour"], [run], now=0)

"""What queries mean: fields, values, MLflow's filters, and what a person is told who mistypes one."""

import re
import subprocess
import sys
from typing import Any

import pytest

from sexton import errors
from sexton.search import near
from sexton.search.evaluate import matches
from sexton.search.fields import ATTRIBUTES, Field, metric_key
from sexton.search.grammar import LENGTH, parse, parse_aggregates, parse_fields, parse_sorts
from sexton.search.meaning import CONDITIONS, DEPTH
from sexton.search.tree import Aggregate, Sort, unparse
from tests import project

NOW = 1_790_000_000 * 10**9  # 2026-09-21T14:13:20Z
CREATED = 1_664_067_852.747

RUN: dict[str, float | str | None] = {
    "id": "a1b2c3d4",
    "name": "my-run",
    "user": "user1",
    "state": "finished",
    "created": CREATED,
    "finished": CREATED - 1,
    "seconds": 5400.0,
    "bytes": 3e9,
    "cost": 5.5,
    "exit_code": 0.0,
    "note": "It Diverged after 3 epochs",
    "dataset.name": "custom",
    "dataset.digest": "s8ds293b",
    "dataset.context": "train",
    "metrics.accuracy": 0.9,
    "metrics.loss": 0.12,
    "metrics.loss.min": 0.1,
    "metrics.log-scale-loss": -2.0,
    "metrics.f1 score": 0.5,
    "metrics.batch_size": 2.0,
    "metrics.val/acc": 0.96,
    "metrics.nan": float("nan"),
    "metrics.diverged": float("inf"),
    "params.model": "GPT-4o",
    "params.batch_size": 2.0,
    "params.lr": 0.1,
    "params.tiny": 1e-05,
    "params.schedule": "auto",
    "params.flag": "true",
    "tags.environment": "notebook",
    "tags.task": "classification",
    "tags.best": "",
    "tags.version": "2",
}


def finds(text: str) -> bool:
    return matches(parse(text, NOW), RUN)


def refusal(text: str) -> errors.BadQuery:
    with pytest.raises(errors.BadQuery) as caught:
        parse(text, NOW)
    return caught.value


# --------------------------------------------------------------------------------------------------- MLflow's filters

# Each filter in MLflow's guide to searching runs and in its API reference, and whether it finds RUN there.
MLFLOW = {
    "metrics.loss > 0.8": False,
    "metrics.accuracy > 0.72": True,
    'metrics."accuracy" > 0.72': True,
    "metrics.loss <= 0.15": True,
    "metrics.accuracy != 0.15": True,
    "metrics.`log-scale-loss` <= 0": True,
    "metrics.`f1 score` >= 0.5": True,
    "metrics.accuracy > 0.72 AND metrics.loss <= 0.15": True,
    "metrics.accuracy > 0.72 AND metrics.batch_size != 0": True,
    "metrics.accuracy > 0.72 AND metrics.batch_size != 0 AND attributes.run_id IN ('a1b2c3d4', 'e5f6g7h8')": True,
    "metrics.loss <= 0.15 AND metrics.loss >= 0.1": True,
    "metrics.`cross-entropy-loss` < 0.5": False,
    'params.`1st_iteration_timestamp` = "2022-01-01"': False,
    'params.model = "GPT-4o"': True,
    'params.model LIKE "GPT%"': True,
    'params.model ILIKE "gPt%"': True,
    'params.model LIKE "gpt%"': False,
    'params.batch_size = "2"': True,
    'params.model LIKE "GPT%" AND params.batch_size = "2"': True,
    'params.batch_size != "None"': True,
    'params.missing != "None"': False,
    'tags."environment" = "notebook"': True,
    'tags.environment = "notebook"': True,
    'tags.task = "Classification"': False,
    'tags.task ILIKE "classif%"': True,
    "tag.`task` = 'classification'": True,
    "tags.mlflow.parentRunId = 'x'": False,
    "tags.s.release ILIKE '%rc%'": False,
    "tags.release IN ('v1.0', 'v1.1')": False,
    "tags.environment IS NOT NULL": True,
    "params.missing IS NULL": True,
    'datasets.name LIKE "custom"': True,
    "datasets.digest IN ('s8ds293b', 'jks834s2')": True,
    'datasets.context = "train"': True,
    "dataset.name IN ('custom', 'also custom', 'another custom name')": True,
    'attributes.status = "ACTIVE"': False,
    'attributes.status = "FINISHED"': True,
    'attributes.user_id LIKE "user1"': True,
    'attributes.run_name = "my-run"': True,
    "attributes.`Run name` = 'my-run'": True,
    'attributes."run name" ILIKE "%RUN"': True,
    "run.run_name = 'my-run'": True,
    'attributes.run_id = "a1b2c3d4"': True,
    "attributes.run_id IN ('a1b2c3d4', 'e5f6g7h8')": True,
    "run_id NOT IN ('a1b2c3d4')": False,
    "attributes.start_time >= 1664067852747": True,
    "attributes.start_time = 1664067852747": True,
    "attributes.end_time < 1664067852747": True,
    "attributes.created > 1664067852747": False,
    "attributes.Created > 1664067852746": True,
    "name LIKE 'my%'": True,
    "name LIKE '%b' AND tags.k = 'v'": False,
    "metrics.rmse > 0.5 AND params.model_type = 'rf'": False,
    "params.optimizer != 'adam' AND metrics.accuracy >= 0.9": False,
    "parameters.model = 'GPT-4o' and metric.loss < 1 and param.batch_size = '2'": True,
    "": True,
}


@pytest.mark.parametrize("text", MLFLOW)
def test_mlflows_filters_mean_what_they_mean_there(text: str) -> None:
    assert finds(text) is MLFLOW[text]


@pytest.mark.parametrize(
    ("text", "descending"),
    [
        ("metrics.acc DESC", True),
        ("attributes.start_time ASC", False),
        ("params.`a b`", False),
        ("tag.x desc", True),
    ],
)
def test_mlflows_orders_are_read(text: str, descending: bool) -> None:
    (sort,) = parse_sorts(text)
    assert sort.descending is descending


# ------------------------------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("metrics.val/acc", "metrics.val/acc"),
        ("metrics.loss.last", "metrics.loss"),
        ("metrics.loss.min", "metrics.loss.min"),
        ('metrics."loss".max', "metrics.loss.max"),
        ('metrics."loss.min"', "metrics.loss.min.last"),
        ("metrics.loss.min.last", "metrics.loss.min.last"),
        ("metrics.loss.min.best", "metrics.loss.min.best"),
        ("params.opt.min", "params.opt.min"),
        ("params.or", "params.or"),
        ('params."say ""x"""', 'params.say "x"'),
        ("params.`a``b`", "params.a`b"),
        ("params.größe-1", "params.größe-1"),
        ("Tags.x", "tags.x"),
        ("android", None),
        ("DURATION", "seconds"),
        ("`run name`", "name"),
        ("age", "created"),
    ],
)
def test_a_name_means_a_key(path: str, key: str | None) -> None:
    if key is None:
        with pytest.raises(errors.BadQuery):
            parse_fields(path)
    else:
        (field,) = parse_fields(path)
        assert field.key == key
        assert parse_fields(str(field)) == (field,)


def test_no_two_metrics_share_a_key() -> None:
    names = ["loss", "loss.min", "loss.last", "loss.min.last", "loss.last.min", "min", "a.best.best"]
    keys = [metric_key(name, part) for name in names for part in ("last", "min", "max", "best")]
    assert len(set(keys)) == len(keys)


def test_every_attribute_is_documented() -> None:
    page = project.document("query.md")
    assert not [name for name in ATTRIBUTES if f"`{name}`" not in page]


def test_every_example_of_the_page_is_read() -> None:
    page = project.document("query.md")
    examples = re.findall(r"^\| `([^`]+)` \|", page.split("## Examples")[1].split("## Mistakes")[0], re.MULTILINE)
    assert len(examples) > 5
    for text in examples:
        assert parse(unparse(parse(text, NOW)), NOW) == parse(text, NOW) or "nan" in text


# ------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "text",
    [
        "seconds = 90min and seconds = 1.5h and seconds between 5000 and 2h",
        "bytes > 2GB and bytes > 2GiB and bytes <= 3000MB and not bytes > 3e9B",
        "cost > $5 and cost < $5.75 and cost = 5.5",
        "created < 2026-11-01 and created >= 2022-09-25T01:04Z and created < '2022-09-25T03:04:13+02:00'",
        "created = 2022-09-25 and created <= 2022-09-25 and not created > 2022-09-25 and not created < 2022-09-25",
        "created != 2022-09-24 and created in (2022-09-24, 2022-09-25) and created = 2022-09-25 01:04",
        "age > 4w and age > 30d and age < 10000d",
        "metrics.nan = nan and metrics.nan != 1 and not metrics.nan > 0 and not metrics.nan <= inf",
        "metrics.diverged = Inf and metrics.diverged > 1e300 and metrics.diverged != -infinity",
        "params.flag = true and params.flag != FALSE",
        "note contains 'diverged' and note not contains 'nan' and note not like 'it%' and note ilike 'it%EPOCHS'",
        "tags.best and not tags.missing and tags.best = '' and tags.best is not null",
        "exit_code == 0 and exit_code <> 1",
        "metrics.loss.min = 0.1 and metrics.loss.last = 0.12",
        "state in ('FINISHED', 'failed')",
        "user = 'nobody' or (user = 'user1' and not (exit_code > 0 or cost > $100))",
    ],
)
def test_values_and_operators(text: str) -> None:
    assert finds(text)
    assert not finds(f"not ({text})")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("params.lr = 0.1", True),
        ("params.lr = '0.1'", True),
        ("params.lr = '0.10'", False),
        ("params.lr like '0.%'", True),
        ("params.lr in ('0.1', 'auto')", True),
        ("params.tiny = '1e-05'", True),
        ("params.schedule = 0.1", False),
        ("params.schedule != 0.1", True),
        ("params.schedule > 0.1", False),
        ("not params.schedule > 0.1", False),
        ("params.schedule in (0.1, 'auto')", True),
    ],
)
def test_a_param_that_is_text_here_and_a_number_there(text: str, found: bool) -> None:
    assert finds(text) is found


@pytest.mark.parametrize("text", ["metrics.missing > 0", "tags.missing = 'x'", "user = 'ada' and metrics.missing > 0"])
def test_what_is_unknown_is_found_by_is_null_alone(text: str) -> None:
    assert not finds(text)
    assert finds(text) is finds(f"{text} and {text}")
    assert finds("metrics.missing is null and not metrics.missing is not null")
    assert not finds("not metrics.missing > 0")
    assert not finds("metrics.missing != 0")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("( metrics.loss<.5 )AND(tags.best)", "metrics.loss < 0.5 and tags.best"),
        ("age<43200min", "age < 30d"),
        ("bytes >= 2048MiB", "bytes >= 2GiB"),
        ("created >= 2026-11-01T00:00Z", "created >= 2026-11-01"),
        ("start_time > 1664067852747", "created > 2022-09-25T01:04:12.747000Z"),
        ("tags.best is not null", "tags.best"),
        ("not tags.best", "tags.best is null"),
        ('params.`a b` = "it\'s"', "params.\"a b\" = 'it''s'"),
        ("tags.a or (tags.b or tags.c) and tags.d", "tags.a or (tags.b or tags.c) and tags.d"),
        ("cost > 5", "cost > $5"),
    ],
)
def test_a_query_has_one_spelling(text: str, canonical: str) -> None:
    assert unparse(parse(text, NOW)) == canonical


# ------------------------------------------------------------------------------------------- sort keys and aggregates


def test_sort_keys() -> None:
    acc, created = Field("metrics", "acc"), Field("", "created")
    assert parse_sorts("-metrics.acc, created") == (Sort(acc, True), Sort(created))
    assert parse_sorts("age") == (Sort(created, True),), "the youngest was created last"


def test_aggregates() -> None:
    assert parse_aggregates("count, failure_rate, mean(metrics.acc), SUM(cost), p95(seconds), count(tags.x)") == (
        Aggregate("count"),
        Aggregate("failure_rate"),
        Aggregate("mean", Field("metrics", "acc")),
        Aggregate("sum", Field("", "cost")),
        Aggregate("p95", Field("", "seconds")),
        Aggregate("count", Field("tags", "x")),
    )


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (parse_sorts, "-metrics.acc desc", "either"),
        (parse_sorts, "metrics.acc downwards", "`asc` or `desc`"),
        (parse_fields, "params.model,", "ends here; expected a field"),
        (parse_aggregates, "maen(metrics.acc)", "perhaps mean"),
        (parse_aggregates, "mean", "mean needs a field"),
        (parse_aggregates, "sum(state)", "state is text"),
        (parse_aggregates, "failure_rate(cost)", "of the runs of a group"),
        (parse_aggregates, "count,,", "expected count"),
    ],
)
def test_refusals_beside_filters(read: Any, text: str, said: str) -> None:
    with pytest.raises(errors.BadQuery) as caught:
        read(text)
    assert said in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("metrics.acc >", 14, "the query ends here; expected a value"),
        ("metrics.acc > 1 and ", 20, "the query ends here; expected a field"),
        ("metrics.acc 0.9", 13, "expected an operator"),
        ("metrics.acc", 12, "expected an operator after metrics.acc; only a tag can stand alone"),
        ("metrics.acc => 3", 14, "expected a value"),
        ("acc > 0.9", 1, "perhaps metrics.acc, params.acc or tags.acc"),
        ("stat = 'x'", 1, "perhaps state"),
        ("metrics. > 1", 1, "expected a name after metrics"),
        ("user = ada", 8, "write 'ada' in quotes"),
        ("tag.`test` = `abc`", 14, "write 'abc' in quotes"),
        ("tags.version = 2", 16, "write '2' in quotes"),
        ("metrics.acc > '0.9'", 15, "write 0.9 without quotes"),
        ("metrics.acc like '0.9'", 18, "metrics.acc is a number"),
        ("metrics.acc > nan", 15, "NaN is neither less nor more"),
        ("metrics.acc > 1e999", 15, "more than a number can be"),
        ("age < 30q", 7, "has no unit that is known"),
        ("age < 3GB", 7, "a duration such as"),
        ("created > 7d", 11, "write age < 7d"),
        ("created > 2026-13-01", 11, "no day or time"),
        ("created > 99999999999999999", 11, "out of range"),
        ("(tags.a", 8, "the query ends here; expected `)`"),
        ("tags.a)", 7, "expected"),
        ("user = 'ada", 8, "the quote ' is not closed"),
        ("params.x in ()", 14, "expected a value"),
        ("params.x like '" + "%a" * 11 + "'", 15, "10 `%` at most"),
        ("tags.a \x1b and tags.b", 8, "control character U+001B"),
        ("tags.a or '; DROP TABLE runs; --", 11, "quote"),
        ("(" * 10_000 + "tags.a" + ")" * 10_000, DEPTH + 1, f"nest {DEPTH} deep"),
        ("(" * 10_000, DEPTH + 1, f"nest {DEPTH} deep"),
        ("(not " * 60 + "tags.a" + ")" * 60, 47, f"nest {DEPTH} deep"),
        ("not " * 10_000, 1, f"nest {DEPTH} deep"),
        ("not " * 10_000 + "tags.a", 1, f"nest {DEPTH} deep"),
        ("tags.a or " * CONDITIONS + "tags.a", 1, f"{CONDITIONS} conditions at most"),
        ("x" * 1_000_000, LENGTH + 1, "100,000 characters at most"),
    ],
)
def test_a_mistake_is_pointed_at_and_explained(text: str, column: int, said: str) -> None:
    bad = refusal(text)
    assert said in str(bad)
    assert bad.fields["column"] == column


def test_the_caret_stands_below_the_place() -> None:
    assert str(refusal("user = 'ada' and metrics.acc >> 1")).splitlines() == [
        "The query can not be read at column 31:",
        "  user = 'ada' and metrics.acc >> 1",
        "                                ^",
        "expected a value (text in quotes, a number, a date).",
    ]


def test_a_long_query_is_shown_around_the_place() -> None:
    text = "tags.a and " * 100 + "metrics.x ! 3" + " and tags.b" * 100
    _, line, caret, _ = str(refusal(text)).splitlines()
    assert line[caret.index("^")] == "!"
    assert len(line) < 80


def test_near_misses_are_suggested() -> None:
    known = ["val/accuracy", "val/loss", "train/accuracy", "lr"]
    assert near.suggest("val/acuracy", known)[0] == "val/accuracy"
    assert near.suggest("Val_Loss", known)[0] == "val/loss"
    assert set(near.suggest("accuracy", known)) == {"val/accuracy", "train/accuracy"}
    assert near.suggest("zzz", known) == []


def test_the_parser_is_loaded_by_the_first_query_that_is_not_empty() -> None:
    program = (
        "import sys; from sexton.search import compile, evaluate, grammar; grammar.parse('', 0);"
        "print('lark' in sys.modules); grammar.parse('tags.x', 0); print('lark' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False", "True"]

"""Values survive exactly, or as something that says what it was; nothing that a user can pass raises."""

import dataclasses
import enum
import math
import struct
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sexton.model import values

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**63) - 2, -(2**63) + 2)
    | st.integers(2**63 - 2, 2**64 + 2)
    | st.floats()
    | st.text()
    | st.binary(max_size=50)
)
KEYS = st.text(max_size=10) | st.sampled_from(["$float", "$int", "$bytes", "$dict", "$repr", "$cut", "$"])
PARAMS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20
)


def _same(one: Any, other: Any) -> bool:
    """Equal to the last bit: of the same type, NaN is NaN, -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


@given(PARAMS)
def test_params_come_back_exactly(value: Any) -> None:
    text = values.encode_param(value)
    assert _same(values.decode_param(text), value)


@given(PARAMS)
def test_the_text_is_json_and_of_one_form(value: Any) -> None:
    text = values.encode_param(value)
    msgspec.json.decode(text)
    assert values.encode_param(values.decode_param(text)) == text


@pytest.mark.parametrize("digits", [19, 640, 4_300, 5_000])
def test_integers_of_any_size_are_exact(digits: int) -> None:
    for number in (10**digits, -(10**digits) - 1):
        assert values.decode_param(values.encode_param(number)) == number


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Optimizer:
    name: str
    betas: tuple[float, float]
    nested: "Optimizer | None" = None


class Tensor:
    """What torch gives: no number, no sequence, but `item` and `tolist`."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def item(self) -> Any:
        if isinstance(self.held, list):
            raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")
        return self.held

    def tolist(self) -> Any:
        return self.held


class WholeNumber(int):
    """As a YAML library gives, which remembers how the number was written."""


class Ratio(float):
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Path("data/train.csv"), "data/train.csv"),
        (Optimizer("adam", (0.9, math.inf), Optimizer("sgd", (0, 1))),
         {"name": "adam", "betas": [0.9, math.inf], "nested": {"name": "sgd", "betas": [0, 1], "nested": None}}),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), 0.10000000149011612),
        (np.int64(-(2**63)), -(2**63)),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("adam"), "adam"),
        (np.float64("nan"), math.nan),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([0.5]), [0.5]),
        (np.array(0.5), 0.5),
        (np.array([]), []),
        (Tensor(0.5), 0.5),
        (Tensor([1.0, math.nan]), [1.0, math.nan]),
        (WholeNumber(5), 5),
        (WholeNumber(2**70), 2**70),
        (Ratio(0.5), 0.5),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset(), []),
        ((1, (2, 3)), [1, [2, 3]]),
        (bytearray(b"\x00\xff"), b"\x00\xff"),
        (memoryview(b"\x00\xff"), b"\x00\xff"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=1))), "2026-01-02 03:00:00+01:00"),
        ({1: "a"}, {"1": "a"}),
    ],
)  # fmt: skip
def test_what_looks_like_a_plain_value_is_kept_as_one(value: object, plain: object) -> None:
    assert _same(values.decode_param(values.encode_param(value)), plain)


def test_keys_that_look_alike_are_both_kept() -> None:
    assert msgspec.json.decode(values.encode_param({1: "a", "1": "b"})) == {"$dict": [["1", "a"], ["1", "b"]]}


class Hostile:
    """An object that raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class BrokenMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise RuntimeError("no value")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        raise RuntimeError("no length")


class BrokenTensor:
    def tolist(self) -> Any:
        raise NotImplementedError

    def item(self) -> Any:
        raise LookupError


def _held_by_itself() -> list[object]:
    values_of_it: list[object] = [1]
    values_of_it += [values_of_it, {"again": values_of_it}, values_of_it]
    return values_of_it


def _deep() -> list[object]:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "value",
    [
        Hostile(),
        [Hostile()],
        {Hostile(): 1},
        BrokenMapping(),
        BrokenTensor(),
        Optimizer,
        _held_by_itself(),
        _deep(),
        "\ud800 lone",
        {"\ud800": "\udfff"},
        {"$\ud800": 1},
        Path("\udcff.csv"),
        np.str_("\ud800"),
        object(),
        lambda: None,
        1 + 2j,
        {"when": np.datetime64("2026-01-01")},
        10**2_000_000,
        math.nan,
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_raises_and_the_text_is_always_json(value: object) -> None:
    msgspec.json.decode(values.encode_param(value))


def test_what_has_no_form_says_what_it_was() -> None:
    assert values.decode_param(values.encode_param(1 + 2j)) == {"$repr": "(1+2j)", "$type": "builtins.complex"}
    told = values.decode_param(values.encode_param(Hostile()))
    assert told == {"$repr": "<repr failed: ZeroDivisionError>", "$type": f"{__name__}.Hostile"}


def test_a_container_in_itself_is_told_where_it_comes_back() -> None:
    one, loop, named, again = values.decode_param(values.encode_param(_held_by_itself()))
    assert one == 1
    assert {loop["$type"], named["again"]["$type"], again["$type"]} == {"builtins.list"}


@pytest.mark.parametrize("value", ["x" * 10_000_000, "\u00e9" * 600_000, list(range(1_000_000)), b"\x00" * 1_000_000])
def test_a_value_over_a_mebibyte_keeps_its_beginning_length_and_hash(value: object) -> None:
    text = values.encode_param(value)
    assert len(text) < 7_000
    cut = values.decode_param(text)
    assert cut.keys() == {"$cut", "$length", "$sha256"}
    assert cut["$length"] > values.MAX_PARAM_BYTES
    changed = value[:-1] + value[:1]  # type: ignore[index]  # each of the values is a sequence
    assert values.decode_param(values.encode_param(changed + value[:1]))["$sha256"] != cut["$sha256"]  # type: ignore[index]  # both are cut


def test_a_value_of_a_mebibyte_is_kept_whole() -> None:
    value = "x" * (values.MAX_PARAM_BYTES - 2)
    assert values.decode_param(values.encode_param(value)) == value


# ------------------------------------------------------------------------------------------------------------- names

NAMES = st.text() | st.text(min_size=300, alphabet=st.sampled_from("é漢😀x")) | st.from_type(object)


@given(NAMES)
def test_a_clean_name_is_printable_bounded_and_stays_as_it_is(name: object) -> None:
    clean = values.clean_name(name)
    assert 0 < len(clean.encode()) <= values.MAX_NAME_BYTES
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char in "\u2028\u2029" for char in clean)
    assert values.clean_name(clean) == clean


def test_ordinary_names_are_kept() -> None:
    for name in ("loss", "val/acc", "train loss (ema)", "🚀 loss", "потеря", "a.b-c_d", "$x", "👩‍🔬"):
        assert values.clean_name(name) == name


def test_control_characters_show_where_they_were() -> None:
    assert values.clean_name("a\nb\x00c\x1b[31m") == "a\ufffdb\ufffdc\ufffd[31m"
    assert values.clean_name("") == "(empty)"
    assert values.clean_name("\ud800") == "\ufffd"


def test_long_names_stay_distinct() -> None:
    long = ["n" * 10_000 + end for end in ("", "a", "b")] + ["😀" * 300, "😀" * 301]
    assert len({values.clean_name(name) for name in long}) == len(long)


def test_any_object_has_a_name() -> None:
    assert values.clean_name(3) == "3"
    assert "Hostile" in values.clean_name(Hostile())


@given(st.binary(min_size=8, max_size=16))
def test_ids_are_ids(entropy: bytes) -> None:
    assert values.RUN_ID.fullmatch(values.short_id(entropy))


# ----------------------------------------------------------------------------------------------- nesting and numbers


def test_flatten_joins_with_slashes() -> None:
    assert values.flatten({"a": {"b": {"c": 1}, "d": 2}, "e": 3, 4: {5: 6}}) == {"a/b/c": 1, "a/d": 2, "e": 3, "4/5": 6}


def test_flatten_ends_where_a_mapping_holds_itself() -> None:
    nested: dict[str, object] = {"loss": 1}
    nested["self"] = nested
    flat = values.flatten(nested)
    assert flat["loss"] == 1
    assert len(flat) == 2


def test_flatten_ends_in_the_depths() -> None:
    nested: dict[str, Any] = {"loss": 1}
    for _ in range(5_000):
        nested = {"deeper": nested}
    assert len(values.flatten(nested)) == 1


@given(st.floats())
@settings(max_examples=200)
def test_numbers_are_spelled_for_json(number: float) -> None:
    spelled = msgspec.json.decode(msgspec.json.encode(values.spell(number)))
    assert _same(values.unspell(spelled), number)

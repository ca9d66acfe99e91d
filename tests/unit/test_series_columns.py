"""Every number of a series comes back to its last bit, and few points show the shape of many."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sexton.store.columns import (
    AXIS,
    FLOAT_STEP,
    INT_STEP,
    NO_STEP,
    Axis,
    decode_sheet,
    encode_axis,
    encode_sheet,
    pack,
    thin,
    unpack,
)

int64 = st.integers(-(2**63), 2**63 - 1)
bits = st.integers(0, 2**64 - 1).map(lambda word: struct.unpack("<d", struct.pack("<Q", word))[0])
EXTREMES = [0.0, -0.0, 5e-324, -5e-324, math.inf, -math.inf, math.nan, 1.7976931348623157e308, 0.1]


def _ints(values: list[int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array(values, np.int64)


@given(st.lists(bits, min_size=1, max_size=50))
def test_floats_are_packed_to_their_last_bit(values: list[float]) -> None:
    given = np.array(values, np.float64)
    assert unpack(pack(given)).tobytes() == given.tobytes()


@given(st.lists(int64, min_size=1, max_size=50))
def test_integers_are_packed_exactly(values: list[int]) -> None:
    assert unpack(pack(_ints(values))).tolist() == values


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 16_384])
def test_columns_of_any_length_are_packed_exactly(count: int) -> None:
    noise = np.random.default_rng(count).normal(0, 1, count)
    noise[: len(EXTREMES)] = EXTREMES[:count]
    assert unpack(pack(noise)).tobytes() == noise.tobytes()
    single = noise[len(EXTREMES) :].astype(np.float32).astype(np.float64)
    assert not len(single) or unpack(pack(single)).tobytes() == single.tobytes()


@given(
    rows=st.lists(st.tuples(int64, int64, int64, int64), min_size=1, max_size=20),
    metrics=st.integers(1, 4),
    kind=st.sampled_from([NO_STEP, INT_STEP, FLOAT_STEP]),
    timed=st.booleans(),
)
def test_a_sheet_comes_back_whole(rows: list[tuple[int, int, int, int]], metrics: int, kind: int, timed: bool) -> None:
    at, seq, step, time = (_ints(list(column)) for column in zip(*rows, strict=True))
    values = np.resize(np.array(EXTREMES), (metrics, len(rows)))
    data = encode_sheet(at, seq, kind, step if kind else None, time if timed else None, values)
    sheet = decode_sheet(data, len(rows), session=7)
    assert sheet.values.tobytes() == values.tobytes()
    assert sheet.axis["at"].tolist() == at.tolist()
    assert sheet.axis["seq"].tolist() == seq.tolist()
    assert sheet.axis["session"].tolist() == [7] * len(rows)
    assert sheet.axis["kind"].tolist() == [kind] * len(rows)
    assert sheet.axis["step"].tolist() == (step.tolist() if kind else [0] * len(rows))
    assert sheet.axis["time"].tolist() == (time if timed else at).tolist()


@given(st.lists(st.tuples(int64, int64, int64, st.sampled_from([0, 1, 2]), int64, int64), min_size=1, max_size=20))
def test_an_axis_comes_back_whole(rows: list[tuple[int, ...]]) -> None:
    axis = {name: _ints(list(column)) for name, column in zip(AXIS, zip(*rows, strict=True), strict=True)}
    axis["step"][axis["kind"] == 0] = 0  # a row without a step has none to keep
    found = Axis(encode_axis(axis), len(rows))
    assert {name: found[name].tolist() for name in AXIS} == {name: axis[name].tolist() for name in AXIS}


def test_what_rows_do_not_have_costs_nothing() -> None:
    at = np.arange(1000) + 10**18
    plain = {name: np.zeros(1000, np.int64) for name in AXIS} | {"at": at, "time": at}
    assert len(encode_axis(plain)) < len(encode_axis(plain | {"time": at + np.arange(1000) ** 2}))
    assert set(Axis(encode_axis(plain), 1000)) == set(AXIS)


# ----------------------------------------------------------------------------------------------------------- thinning


@given(st.lists(st.sampled_from([*EXTREMES, 1.0, 2.0, 3.0]), min_size=1, max_size=300), st.integers(1, 100))
def test_few_points_hold_the_least_the_greatest_and_the_last(values: list[float], points: int) -> None:
    given = np.array(values)
    chosen = thin(given, points)
    assert len(chosen) <= max(points, 3)
    assert np.all(np.diff(chosen) > 0)
    assert chosen[-1] == len(values) - 1
    numbers = given[~np.isnan(given)]
    if len(numbers):
        assert np.nanmin(given[chosen]) == numbers.min()
        assert np.nanmax(given[chosen]) == numbers.max()


def test_a_spike_is_kept_wherever_it_is() -> None:
    for place in range(0, 10_000, 617):
        values = np.sin(np.arange(10_000) / 500)
        values[place] = 40
        assert place in thin(values, 300)


def test_nan_is_shown_only_where_it_is_last_or_alone() -> None:
    values = np.full(300, np.nan)
    values[100:200] = 1.0
    values[150] = math.inf
    chosen = thin(values, 90)
    assert 150 in chosen
    assert np.isnan(values[chosen[0]])
    assert thin(np.full(10, np.nan), 5).tolist() == [0, 9]


def test_all_points_are_shown_where_they_are_few_enough() -> None:
    assert thin(np.arange(5.0), 5).tolist() == [0, 1, 2, 3, 4]

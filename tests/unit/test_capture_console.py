"""Whatever a command prints, and in whatever pieces, every byte is recorded or counted as skipped."""

from collections import defaultdict

from hypothesis import example, given
from hypothesis import strategies as st

from sexton.capture.console import PIECE_BYTES, Console, Piece

prints = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=200)),
        st.none(),  # a flush
    )
)


def record(console: Console, printed: list[tuple[str, bytes] | None]) -> list[Piece]:
    pieces: list[Piece] = []
    for item in printed:
        pieces += console.feed(*item) if item else console.flush()
    return pieces + console.close()


@given(prints, st.integers(0, 500), st.integers(0, 300))
@example([("stdout", b"x" * 1000), ("stderr", b"y" * 1000), ("stdout", b"z" * 1000)], 500, 300)
def test_head_gap_and_tail_account_for_every_byte(
    printed: list[tuple[str, bytes] | None], head: int, tail: int
) -> None:
    truth: dict[str, bytes] = defaultdict(bytes)
    for item in printed:
        if item:
            truth[item[0]] += item[1]

    pieces = record(Console(head, tail), printed)

    at: dict[str, int] = defaultdict(int)
    gaps: dict[str, int] = defaultdict(int)
    for piece in pieces:
        assert piece.offset == at[piece.stream]
        assert truth[piece.stream][piece.offset :].startswith(piece.data)
        assert bool(piece.skipped) != bool(piece.data)
        at[piece.stream] += len(piece.data) + piece.skipped
        gaps[piece.stream] += piece.skipped
    total = sum(map(len, truth.values()))
    for stream, text in truth.items():
        assert at[stream] == len(text)
        kept_at_end = sum(len(p.data) for p in pieces if p.stream == stream)
        assert gaps[stream] == 0 or kept_at_end >= min(tail, len(text))
    assert total > head or not any(gaps.values())


def test_the_first_bytes_and_the_last_are_kept() -> None:
    console = Console(head_bytes=10, tail_bytes=5)
    pieces = record(console, [("stdout", b"0123456789"), ("stdout", b"x" * 1000), ("stdout", b"the end")])

    assert pieces == [
        Piece("stdout", 0, b"0123456789"),
        Piece("stdout", 10, b"", skipped=1002),
        Piece("stdout", 1012, b"e end"),
    ]


def test_a_noisy_stream_does_not_push_the_last_words_of_the_other_out() -> None:
    console = Console(head_bytes=10, tail_bytes=20)
    pieces = record(console, [("stdout", b"start     "), ("stderr", b"ValueError: lr"), ("stdout", b"." * 5000)])

    assert Piece("stderr", 0, b"ValueError: lr") in pieces


def test_small_prints_wait_for_a_flush_and_large_ones_do_not() -> None:
    console = Console()

    assert console.feed("stdout", b"a line\n") == []
    assert console.flush() == [Piece("stdout", 0, b"a line\n")]
    assert console.flush() == []
    big = console.feed("stdout", b"x" * (3 * PIECE_BYTES))
    assert [len(piece.data) for piece in big] == [PIECE_BYTES] * 3
    assert big[0].offset == len(b"a line\n")
    assert console.close() == []

"""Made `journal-1/` and `journal-1.json`: a journal of format 1 as version 0.1.0 wrote it, and what it says.

`python -m tests.golden.journal` made them. Never made again: such journals wait on users' disks. A new format gets
files of its own beside them.
"""

import itertools
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from sexton.courier.batches import batch
from sexton.journal import journal, reader
from sexton.journal.journal import Identity, Writer, segment_path
from sexton.journal.reader import EpochReader, Position
from sexton.model import records
from sexton.model.values import encode_param, spell

HERE = Path(__file__).parent
FOLDER = HERE / "journal-1"
T0 = 1_767_225_600_000_000_000
IDENTITY = Identity("g0dden0rvn01", "w0r1ter00000", "file:/srv/sexton", "file:/srv/sexton/blobs")


@contextmanager
def _clock() -> Iterator[None]:
    """One that goes on by a microsecond a look, and once back."""
    ticks = itertools.chain([T0, T0 + 1_000, T0 - 10**9], itertools.count(T0 + 5_000, 1_000))
    with mock.patch.object(journal, "_now", side_effect=ticks), mock.patch.object(journal, "SEGMENT_BYTES", 900):
        yield


def write(folder: Path) -> None:
    """Write the journal: an owner's session in three segments, and a forked child's whose last record is torn."""
    process = records.Process(4711, 281497, "11a2311a", "node1")
    with _clock():
        started = records.Started(experiment="digits", process=process, argv=("train.py", "é"))
        owner = Writer(folder, lambda _forked: started, print, lambda: IDENTITY)
        owner.append(records.Params(params={"lr": encode_param(0.1), "clip": encode_param(math.inf)}))
        for step in (1, 2, 2, -3, 2**63 - 1):
            owner.row({"loss": 1 / 3, "val/acc": math.nan, ("acc", '{"split":"val"}'): -0.0}, step)
        owner.row({"loss": 5e-324}, 0.5)
        owner.row({"loss": -math.inf})
        owner.row({"loss": 2.0, "é": 1e308}, 7, T0 - 1)
        for number in range(12):
            owner.append(records.Console(stream="stdout", offset=40 * number, data=b"SX\x00\xff line" * 4))
        owner.row({"é": 1.0, "loss": 2.0}, 8)
        owner.append(records.Finished(state="failed", cause="exit", exit_code=3))
        owner.close()
        child = Writer(folder, lambda _forked: records.Started(role="joined", process=process), print, lambda: IDENTITY)
        child.row({"loss": 1.0}, 1)
        child.append(records.Note(text="the last whole record"))
        child.append(records.Note(text="this one is torn"))
        child.close()
    last = segment_path(folder, 1, 0)
    last.write_bytes(last.read_bytes()[:-7])


def read(folder: Path) -> Any:
    """What a reader finds, as JSON has it."""
    said: dict[str, Any] = {}
    for epoch in reader.epochs(folder):
        read = EpochReader(folder, epoch, Position())
        found: list[Any] = []
        while (piece := read.read()) is not None:
            made = batch(IDENTITY.run, IDENTITY.writer, epoch, piece, lambda body: body)
            facts = {made.first + offset: records.decode(bytes(raw)) for offset, raw in made.records}
            rows = {made.first + seq: row for points in made.points for seq, row in _rows(points)}
            found += [(number, (facts | rows)[number]) for number in sorted(facts | rows)]
            assert made.damaged == 0
        said[str(epoch)] = found
    return msgspec.json.decode(msgspec.json.encode(said))


def _rows(points: records.Points) -> Iterator[tuple[int, Any]]:
    def column(data: bytes, code: str) -> list[Any]:
        return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))

    values = [spell(value) if value == value else "NaN" for value in column(points.values, "d")]
    steps = column(points.steps, "q" if points.step_kind == "int" else "d") or [None] * points.rows
    times = column(points.times, "q") or [None] * points.rows
    for place, (number, at) in enumerate(zip(column(points.seq, "I"), column(points.at, "q"), strict=True)):
        named = [(key, values[nth * points.rows + place]) for nth, key in enumerate(points.keys)]
        yield number, {"at": at, "step": steps[place], "time": times[place], "metrics": named}


def main() -> None:
    write(FOLDER)
    (HERE / "journal-1.json").write_bytes(msgspec.json.format(msgspec.json.encode(read(FOLDER))) + b"\n")


if __name__ == "__main__":
    main()

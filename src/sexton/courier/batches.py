"""Turning frames of a journal into the batch that travels: records as they are, metric rows as columns."""

from collections.abc import Callable, Iterable

import msgspec
import numpy as np

from sexton.journal import segment
from sexton.journal.reader import Piece
from sexton.journal.segment import Frame, Key
from sexton.model.records import Batch, Points

Exchange = Callable[[bytes], bytes | None]
"""What to send in place of a record; None where the store need not know it."""

_ROW_KINDS = {
    segment.ROW | step | timed
    for step in (segment.NO_STEP, segment.INT_STEP, segment.FLOAT_STEP)
    for timed in (0, segment.TIMED)
}
_STEP_KINDS = {segment.NO_STEP: "none", segment.INT_STEP: "int", segment.FLOAT_STEP: "float"}


def batch(run: str, writer: str, epoch: int, piece: Piece, exchange: Exchange) -> Batch:
    """The batch of a piece. What can't be read counts as damaged: frames that are missing, rows whose shape is, and
    frames of a kind that this version does not know."""
    made = Batch(run, writer, epoch, piece.first, piece.count, damaged=piece.count - len(piece.frames))
    rows: dict[tuple[int, int], list[Frame]] = {}
    for frame in piece.frames:
        if frame.kind == segment.RECORD:
            record = exchange(frame.payload[1:])
            if record is not None:
                made.records.append((frame.sequence - piece.first, msgspec.Raw(record)))
        elif frame.kind in _ROW_KINDS:
            rows.setdefault((int.from_bytes(frame.payload[1:5], "little"), frame.kind), []).append(frame)
        elif frame.kind != segment.SHAPE:
            made.damaged += 1
    for (shape, kind), frames in rows.items():
        points = _points(piece.shapes.get(shape, []), kind, frames, piece.first)
        made.damaged += len(frames) - points.rows
        if points.rows:
            made.points.append(points)
    return made


def _points(keys: list[Key], kind: int, frames: list[Frame], first: int) -> Points:
    """Those of the frames that are rows of these keys."""
    step_kind = _STEP_KINDS.get(kind & 3, "none")
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = [("kind", "u1"), ("shape", "<u4"), ("at", "<i8")]
    fields.append(("step", "<f8" if step_kind == "float" else "<i8"))
    if kind & segment.TIMED:
        fields.append(("time", "<i8"))
    fields.append(("values", "<f8", (len(keys),)))
    layout = np.dtype(fields)
    whole = [frame for frame in frames if keys and len(frame.payload) == layout.itemsize]
    table = np.frombuffer(b"".join(frame.payload for frame in whole), layout)
    return Points(
        keys=keys,
        rows=len(table),
        seq=_bytes((frame.sequence - first for frame in whole), len(whole)),
        at=table["at"].tobytes(),
        values=np.ascontiguousarray(table["values"].T).tobytes(),
        steps=b"" if step_kind == "none" else table["step"].tobytes(),
        step_kind=step_kind,  # type: ignore[arg-type]  # one of the three literals, from the table above
        times=table["time"].tobytes() if kind & segment.TIMED else b"",
    )


def _bytes(sequence: Iterable[int], count: int) -> bytes:
    return np.fromiter(sequence, "<u4", count).tobytes()

"""Made `store-NUMBER.db.zst` and `store-NUMBER.json`: a store of that schema, and what it answers.

`python -m tests.golden.store` makes those of the newest schema. The others are never made again: they are what a user
may have on disk. 0001 was made with version 0.1.0; the file that it names is shown as deleted, since whole files are no
longer read.
"""

import math
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from sexton.api import Local
from sexton.ingest import ingest
from sexton.model import records as facts
from sexton.model.records import Batch, Points, Record, encode
from sexton.model.runs import RunFilter
from sexton.model.values import encode_param
from sexton.store import manifests, runs, series, upgrade
from sexton.store.database import FILE, Database
from tests.batches import stored

HERE = Path(__file__).parent
T0 = 1_767_225_600_000_000_000
NOW = T0 + 10**12
RUN = "g0dden0rvn01"
KEYS: list[str | tuple[str, str]] = ["loss", ("acc", '{"split":"val"}')]
VALUES = [0.1, math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 2.0]


def records(digest: str) -> list[Record]:
    return [
        facts.Started(at=T0, project="p", experiment="e", name="first", user="ann", host="h", argv=("python", "a.py")),
        facts.Params(at=T0 + 1, params={"lr": encode_param(0.1), "big": encode_param(2**63 - 1)}),
        facts.Params(at=T0 + 2, params={"lr": encode_param(0.2), "nan": encode_param(math.nan)}),
        facts.Direction(at=T0 + 3, metric="loss", direction="min"),
        facts.Tag(at=T0 + 4, key="tier", value="x" * 1_000),
        facts.Tag(at=T0 + 5, key="gone"),
        facts.Tag(at=T0 + 6, key="gone", value=None),
        facts.Note(at=T0 + 7, text="**why**"),
        facts.Console(at=T0 + 8, stream="stdout", offset=0, data=b"hello\n"),
        facts.Usage(at=T0 + 9, method="tree", cpu_seconds=1.5, memory=2**40),
        facts.Artifact(at=T0 + 10, name="model.pt", digest=digest, step=1.0, metrics={"loss": math.inf}),
        facts.Edge(at=T0 + 11, direction="consumed", digest="b3:01", name="train", role="train"),
        facts.Captured(at=T0 + 12, section="code", facts={"commit": "abc"}),
        facts.Concluded(at=T0 + 13, outcome="worked", takeaway="it did"),
        facts.Trouble(at=T0 + 14, kind="lost", count=2),
        facts.Heartbeat(at=T0 + 15),
        facts.Artifact(at=T0 + 16, name="raw", uri="s3://b/raw", digest="etag", files=3, shed=("optimizer",)),
    ]


def points(first: int, kind: Any, steps: list[float]) -> Points:
    rows = len(VALUES)
    return Points(
        keys=KEYS,
        rows=rows,
        seq=np.arange(rows, dtype="<u4").tobytes(),
        at=(T0 + 100 + first + np.arange(rows)).astype("<i8").tobytes(),
        values=np.array([VALUES, VALUES[::-1]]).tobytes(),
        steps=np.array(steps, "<i8" if kind == "int" else "<f8").tobytes(),
        step_kind=kind,
        times=np.arange(rows, dtype="<i8").tobytes() if kind == "float" else b"",
    )


def fill(database: Database, digest: str) -> None:
    said = [(place, msgspec.Raw(encode(one))) for place, one in enumerate(records(digest))]
    unknown = msgspec.Raw(msgspec.msgpack.encode({"t": "dance", "at": T0 + 17}))
    end = msgspec.Raw(encode(facts.Finished(at=T0 + 10**10, state="failed", cause="exit", exit_code=3, message="no")))
    whole = 2**63 - 1
    told = Batch(RUN, "w", 0, 0, 18, records=[*said, (17, unknown)])
    early = Batch(RUN, "w", 0, 100, 8, points=[points(0, "int", [whole, -(2**63), *range(6)])])
    late = Batch(RUN, "w", 0, 200, 8, points=[points(50, "float", [0.5, math.nan, *range(6)])])
    with database.write("ann", NOW) as tx:
        ingest(tx, [told, early])
    with database.write("ann", NOW) as tx:
        series.compact(tx, RUN)
    with database.write("ann", NOW) as tx:
        act = Batch(RUN, "act-1", 0, 0, 1, records=[(0, msgspec.Raw(encode(facts.Tag(at=NOW, key="pin"))))])
        ingest(tx, [late, Batch(RUN, "w", 0, 300, 1, records=[(0, end)]), act])


def answers(database: Database) -> Any:
    """What the store says, as JSON has it."""
    with database.read() as connection:
        detail = runs.detail(connection, RUN, NOW)
        whole = [one.digest for one in detail.artifacts if one.state == "whole" and one.uri is None]
        said: dict[str, Any] = {
            "page": runs.page(connection, RunFilter(tags=("pin",), sort="metrics.loss"), NOW),
            "detail": detail,
            "console": runs.console(connection, RUN),
            "changes": runs.changes(connection, 0, 10, NOW),
            "loss": series.read(connection, RUN, "loss"),
            "acc": series.read(connection, RUN, 'acc{"split":"val"}'),
            "memory": series.read(connection, RUN, "memory", "usage"),
        }
        if whole:
            said["manifests"] = [manifests.read(connection, digest) for digest in whole if digest]
    return msgspec.json.decode(msgspec.json.encode(said))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        local = Local.open(f"file:{folder}", f"file:{folder}/blobs", "ann")
        fill(local.database, stored(local, b"model"))
        said = answers(local.database)
        local.close()
        with sqlite3.connect(Path(folder, FILE)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        content = zstandard.ZstdCompressor(level=19).compress(Path(folder, FILE).read_bytes())
    (HERE / f"store-{upgrade.HEAD}.db.zst").write_bytes(content)
    (HERE / f"store-{upgrade.HEAD}.json").write_bytes(msgspec.json.format(msgspec.json.encode(said)) + b"\n")


if __name__ == "__main__":
    main()

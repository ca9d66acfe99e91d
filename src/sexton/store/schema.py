"""The tables. `docs/spec/store.md` says what each column means; `migrations/` is how an older store gets here.

Everything about a run hangs below its row in `runs`, and whoever changes any of it holds that row locked. A record's
place in the log is (at, writer, epoch, seq); tables keep it as `at`, `session` (which names writer and epoch), `seq`.
Unknown is NULL. NaN is NULL in a row that exists. Times are UTC ns.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy import Text as AnyText

metadata = MetaData()

Text = AnyText().with_variant(AnyText(collation="C"), "postgresql")  # sorts by bytes, as SQLite does
Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only where the type is INTEGER


def _where(condition: ColumnElement[bool]) -> dict[str, Any]:
    """Options of an index that has only those rows."""
    return {"sqlite_where": condition, "postgresql_where": condition}


def _run() -> Column[str]:
    return Column("run", Text, ForeignKey("runs.id"), primary_key=True)


def _place() -> tuple[Column[int], Column[int], Column[int]]:
    return (
        Column("at", BigInteger, nullable=False),
        Column("session", Id, nullable=False),
        Column("seq", BigInteger, nullable=False),
    )


meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

counter = Table(  # one row; taken last in every transaction, so that revisions become visible in their order
    "counter",
    metadata,
    Column("revision", BigInteger, primary_key=True),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("experiment", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("name", Text),
    Column("ended_at", BigInteger),
    Column("seconds", Double),
    Column("heard_at", BigInteger),
    Column("received_at", BigInteger, nullable=False),
    Column("cause", Text),
    Column("exit_code", BigInteger),
    Column("signal", BigInteger),
    Column("message", Text),
    Column("user", Text),
    Column("host", Text),
    Column("argv", Text),
    Column("cwd", Text),
    Column("task", Text),
    Column("hypothesis", Text),
    Column("sweep", Text),
    Column("parent", Text),
    Column("outcome", Text),
    Column("takeaway", Text),
    Column("cpu_seconds", Double),
    Column("cpu_method", Text),
    Column("cpu_coverage", Text),
    Column("max_rss", BigInteger),
    Column("bytes", BigInteger),
    Column("trouble", Text),
    Column("loose", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("runs_by_created", "created_at", "id"),
    Index("runs_by_project", "project", "created_at", "id"),
    Index("runs_by_experiment", "experiment", "project", "created_at", "id"),
    Index("runs_by_state", "state", "created_at", "id"),
    Index("runs_by_sweep", "sweep", "created_at", "id"),
    Index("runs_by_ended", "ended_at", "id"),
    Index("runs_by_name", "name", "id"),
    Index("runs_by_seconds", "seconds", "id"),
    Index("runs_by_cpu", "cpu_seconds", "id"),
    Index("runs_by_revision", "revision", "id"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run", Text, ForeignKey("runs.id"), nullable=False),
    Column("writer", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("received", LargeBinary, nullable=False),
    UniqueConstraint("run", "writer", "epoch", name="sessions_by_run"),
)

records = Table(
    "records",
    metadata,
    _run(),
    Column("type", Text, primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("session", Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

params = Table(
    "params",
    metadata,
    _run(),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    *_place(),
    Column("conflicting", Boolean, nullable=False),
    sqlite_with_rowid=False,
)

TAG_HEAD = 300
"""Letters of a tag's value that `value` has, `rest` having the others: PostgreSQL indexes no more than 2,704 bytes."""

tags = Table(
    "tags",
    metadata,
    _run(),
    Column("key", Text, primary_key=True),
    Column("value", Text),
    Column("rest", Text),
    *_place(),
    Column("actor", Text, nullable=False),
    Index("tags_by_value", "key", "value", "run"),
    sqlite_with_rowid=False,
)
artifacts = Table(
    "artifacts",
    metadata,
    _run(),
    Column("session", Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", Text),
    Column("size", BigInteger),
    Column("step", Double),
    Column("metrics", Text),
    Column("deleted_at", BigInteger),
    Column("files", BigInteger),
    Column("uri", Text),
    Column("shed", Text),
    Index("artifacts_by_digest", "digest"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("context", Text, nullable=False),
    UniqueConstraint("name", "context", name="metrics_by_name"),
)

directions = Table(
    "directions",
    metadata,
    Column("project", Text, primary_key=True),
    Column("experiment", Text, primary_key=True),
    Column("metric", Id, primary_key=True),
    Column("direction", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("run", Text, nullable=False),
)

summaries = Table(
    "summaries",
    metadata,
    _run(),
    Column("metric", Id, primary_key=True, autoincrement=False),
    Column("last", Double),
    Column("min", Double),
    Column("max", Double),
    Column("points", BigInteger, nullable=False),
    Column("step", Text),
    *_place(),
    Column("rank", Double),
    Index("summaries_by_rank", "metric", "rank", "run"),
    sqlite_with_rowid=False,
)

sheets = Table(
    "sheets",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run", Text, ForeignKey("runs.id"), nullable=False),
    Column("session", Id, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("metrics", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("sheets_by_run", "run", "id"),
)

blocks = Table(
    "blocks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run", Text, ForeignKey("runs.id"), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("axis", LargeBinary, nullable=False),
    Index("blocks_by_run", "run", "id"),
)

columns = Table(
    "columns",
    metadata,
    Column("block", Id, ForeignKey("blocks.id"), primary_key=True),
    Column("metric", Id, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

# ------------------------------------------------------------------------------------------------------ stored bytes
# Truth about what is stored is here, not in the place: an object that no row names is not there. The foreign keys are a
# second lock on the door: no row that something refers to can be deleted, whatever a collection believes.

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("lease", BigInteger, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("objects", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Index("uploads_by_state", "state", "lease_until"),
)

packs = Table(
    "packs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("upload", Text, ForeignKey("uploads.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("checked_at", BigInteger),
    UniqueConstraint("key", name="packs_by_key"),
    Index("packs_by_checked", "checked_at", "id"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("pack", Id, ForeignKey("packs.id"), nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("codec", BigInteger, nullable=False),
    Column("condemned_at", BigInteger),
    Column("damaged_at", BigInteger),
    UniqueConstraint("hash", name="chunks_by_hash"),
    Index("chunks_by_pack", "pack"),
)
Index("chunks_condemned", chunks.c.condemned_at, **_where(chunks.c.condemned_at.is_not(None)))
Index("chunks_damaged", chunks.c.damaged_at, **_where(chunks.c.damaged_at.is_not(None)))

pins = Table(
    "pins",
    metadata,
    Column("upload", Text, ForeignKey("uploads.id"), primary_key=True),
    Column("chunk", Id, ForeignKey("chunks.id"), primary_key=True, autoincrement=False),
    Index("pins_by_chunk", "chunk"),
    sqlite_with_rowid=False,
)

manifests = Table(
    "manifests",
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("condemned_at", BigInteger),
    Column("body", LargeBinary, nullable=False),  # last: SQLite reads through what is large to what is after it
    UniqueConstraint("digest", name="manifests_by_digest"),
    UniqueConstraint("key", name="manifests_by_key"),
)

manifest_chunks = Table(
    "manifest_chunks",
    metadata,
    Column("manifest", Id, ForeignKey("manifests.id"), primary_key=True, autoincrement=False),
    Column("chunk", Id, ForeignKey("chunks.id"), primary_key=True, autoincrement=False),
    Index("manifest_chunks_by_chunk", "chunk"),
    sqlite_with_rowid=False,
)

claims = Table(
    "claims",
    metadata,
    Column("upload", Text, ForeignKey("uploads.id"), primary_key=True),
    Column("manifest", Id, ForeignKey("manifests.id"), primary_key=True, autoincrement=False),
    Index("claims_by_manifest", "manifest"),
    sqlite_with_rowid=False,
)

doomed = Table(
    "doomed",
    metadata,
    Column("key", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
)

collections = Table(
    "collections",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("live", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("freed", BigInteger),
)

"""The first schema."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT = sa.BigInteger()
REAL: sa.Double[float] = sa.Double()
BYTES = sa.LargeBinary()


def upgrade() -> None:
    _store()
    _runs()
    _log()
    _values()
    _metrics()
    _series()


def _need(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _may(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _run(*key: str) -> tuple[sa.ForeignKeyConstraint, sa.PrimaryKeyConstraint]:
    return sa.ForeignKeyConstraint(["run"], ["runs.id"]), sa.PrimaryKeyConstraint(*key)


def _store() -> None:
    op.create_table("meta", _need("key", TEXT), _need("value", TEXT), sa.PrimaryKeyConstraint("key"))
    op.create_table("counter", _need("revision", INT), sa.PrimaryKeyConstraint("revision"))
    names = ("actor", "act", "subject", "detail")
    columns = [_need(name, TEXT) for name in names]
    op.create_table("audit", _need("id", ID), _need("at", INT), *columns, sa.PrimaryKeyConstraint("id"))


def _runs() -> None:
    op.create_table(
        "runs",
        *(_need(name, TEXT) for name in ("id", "project", "experiment", "state")),
        _need("created_at", INT),
        _may("name", TEXT),
        _may("ended_at", INT),
        _may("seconds", REAL),
        _may("heard_at", INT),
        _need("received_at", INT),
        _may("cause", TEXT),
        _may("exit_code", INT),
        _may("signal", INT),
        *(_may(name, TEXT) for name in ("message", "user", "host", "argv", "cwd", "task", "hypothesis")),
        *(_may(name, TEXT) for name in ("sweep", "parent", "outcome", "takeaway")),
        _may("cpu_seconds", REAL),
        _may("cpu_method", TEXT),
        _may("cpu_coverage", TEXT),
        _may("max_rss", INT),
        _may("bytes", INT),
        _may("trouble", TEXT),
        _need("loose", INT),
        _need("revision", INT),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("runs_by_created", "runs", ["created_at", "id"])
    op.create_index("runs_by_project", "runs", ["project", "created_at", "id"])
    op.create_index("runs_by_experiment", "runs", ["experiment", "project", "created_at", "id"])
    op.create_index("runs_by_state", "runs", ["state", "created_at", "id"])
    op.create_index("runs_by_sweep", "runs", ["sweep", "created_at", "id"])
    op.create_index("runs_by_ended", "runs", ["ended_at", "id"])
    op.create_index("runs_by_name", "runs", ["name", "id"])
    op.create_index("runs_by_seconds", "runs", ["seconds", "id"])
    op.create_index("runs_by_cpu", "runs", ["cpu_seconds", "id"])
    op.create_index("runs_by_revision", "runs", ["revision", "id"])


def _log() -> None:
    op.create_table(
        "sessions",
        *(_need("id", ID), _need("run", TEXT), _need("writer", TEXT), _need("epoch", INT), _need("received", BYTES)),
        *_run("id"),
        sa.UniqueConstraint("run", "writer", "epoch", name="sessions_by_run"),
    )
    op.create_table(
        "records",
        *(_need("run", TEXT), _need("type", TEXT), _need("at", INT), _need("session", ID), _need("seq", INT)),
        *(_need("actor", TEXT), _need("body", BYTES)),
        *_run("run", "type", "at", "session", "seq"),
    )


def _values() -> None:
    op.create_table(
        "params",
        *(_need("run", TEXT), _need("key", TEXT), _need("value", TEXT)),
        *(_need("at", INT), _need("session", ID), _need("seq", INT), _need("conflicting", sa.Boolean())),
        *_run("run", "key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tags",
        *(_need("run", TEXT), _need("key", TEXT), _may("value", TEXT), _may("rest", TEXT)),
        *(_need("at", INT), _need("session", ID), _need("seq", INT), _need("actor", TEXT)),
        *_run("run", "key"),
        sqlite_with_rowid=False,
    )
    op.create_index("tags_by_value", "tags", ["key", "value", "run"])
    op.create_table(
        "artifacts",
        *(_need("run", TEXT), _need("session", ID), _need("seq", INT), _need("at", INT), _need("name", TEXT)),
        *(_need("kind", TEXT), _need("digest", TEXT), _need("size", INT), _may("step", REAL), _may("metrics", TEXT)),
        *_run("run", "session", "seq"),
    )
    op.create_index("artifacts_by_digest", "artifacts", ["digest"])


def _metrics() -> None:
    op.create_table(
        "metrics",
        *(_need("id", ID), _need("name", TEXT), _need("context", TEXT)),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", "context", name="metrics_by_name"),
    )
    op.create_table(
        "directions",
        *(_need("project", TEXT), _need("experiment", TEXT), _need("metric", ID), _need("direction", TEXT)),
        *(_need("at", INT), _need("run", TEXT)),
        sa.PrimaryKeyConstraint("project", "experiment", "metric"),
    )
    op.create_table(
        "summaries",
        *(_need("run", TEXT), _need("metric", ID), _may("last", REAL), _may("min", REAL), _may("max", REAL)),
        *(_need("points", INT), _may("step", TEXT), _need("at", INT), _need("session", ID), _need("seq", INT)),
        _may("rank", REAL),
        *_run("run", "metric"),
        sqlite_with_rowid=False,
    )
    op.create_index("summaries_by_rank", "summaries", ["metric", "rank", "run"])


def _series() -> None:
    op.create_table(
        "chunks",
        *(_need("id", ID), _need("run", TEXT), _need("session", ID), _need("rows", INT)),
        *(_need("metrics", BYTES), _need("data", BYTES)),
        *_run("id"),
    )
    op.create_index("chunks_by_run", "chunks", ["run", "id"])
    op.create_table(
        "blocks",
        *(_need("id", ID), _need("run", TEXT), _need("rows", INT), _need("until", INT), _need("axis", BYTES)),
        *_run("id"),
    )
    op.create_index("blocks_by_run", "blocks", ["run", "id"])
    op.create_table(
        "columns",
        *(_need("block", ID), _need("metric", ID), _need("data", BYTES)),
        sa.ForeignKeyConstraint(["block"], ["blocks.id"]),
        sa.PrimaryKeyConstraint("block", "metric"),
    )

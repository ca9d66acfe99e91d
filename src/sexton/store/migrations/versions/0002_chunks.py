"""Chunks, packs and manifests instead of whole files. What was called chunks of a series is called sheets."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INT = sa.BigInteger()
BYTES = sa.LargeBinary()


def upgrade() -> None:
    _sheets()
    _artifacts()
    _stored()
    _referred()
    _let_go()


def _need(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _may(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _of(column: str, table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{table}.id"])


def _sheets() -> None:
    op.drop_index("chunks_by_run", "chunks")
    op.rename_table("chunks", "sheets")
    if op.get_bind().dialect.name == "postgresql":  # where these names are not the table's own, and another needs them
        op.execute("ALTER INDEX chunks_pkey RENAME TO sheets_pkey")
        op.execute("ALTER SEQUENCE chunks_id_seq RENAME TO sheets_id_seq")
        op.execute("ALTER TABLE sheets RENAME CONSTRAINT chunks_run_fkey TO sheets_run_fkey")
    op.create_index("sheets_by_run", "sheets", ["run", "id"])


def _artifacts() -> None:
    with op.batch_alter_table("artifacts") as table:
        table.alter_column("digest", existing_type=TEXT, nullable=True)
        table.alter_column("size", existing_type=INT, nullable=True)
        for column in (_may("deleted_at", INT), _may("files", INT), _may("uri", TEXT), _may("shed", TEXT)):
            table.add_column(column)
    op.execute("UPDATE artifacts SET deleted_at = at")  # whole files are no longer read


def _stored() -> None:
    op.create_table(
        "uploads",
        *(_need("id", TEXT), _need("state", TEXT), _need("lease", INT), _need("lease_until", INT)),
        *(_need("objects", INT), _need("actor", TEXT), _need("opened_at", INT)),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("uploads_by_state", "uploads", ["state", "lease_until"])
    op.create_table(
        "packs",
        *(_need("id", ID), _need("key", TEXT), _need("kind", TEXT), _need("bytes", INT), _need("upload", TEXT)),
        *(_need("created_at", INT), _may("checked_at", INT)),
        *(sa.PrimaryKeyConstraint("id"), _of("upload", "uploads"), sa.UniqueConstraint("key", name="packs_by_key")),
    )
    op.create_index("packs_by_checked", "packs", ["checked_at", "id"])
    op.create_table(
        "chunks",
        *(_need("id", ID), _need("hash", BYTES), _need("pack", ID), _need("offset", INT), _need("stored", INT)),
        *(_need("size", INT), _need("codec", INT), _may("condemned_at", INT), _may("damaged_at", INT)),
        *(sa.PrimaryKeyConstraint("id"), _of("pack", "packs"), sa.UniqueConstraint("hash", name="chunks_by_hash")),
    )
    op.create_index("chunks_by_pack", "chunks", ["pack"])
    for name in ("condemned", "damaged"):
        there = sa.text(f"{name}_at IS NOT NULL")
        op.create_index(f"chunks_{name}", "chunks", [f"{name}_at"], sqlite_where=there, postgresql_where=there)


def _referred() -> None:
    op.create_table(
        "manifests",
        *(_need("id", ID), _need("digest", TEXT), _need("size", INT), _need("key", TEXT)),
        *(_need("created_at", INT), _may("condemned_at", INT), _need("body", BYTES)),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest", name="manifests_by_digest"),
        sa.UniqueConstraint("key", name="manifests_by_key"),
    )
    for name, one, other in (
        ("pins", ("upload", TEXT), "chunk"),
        ("manifest_chunks", ("manifest", ID), "chunk"),
        ("claims", ("upload", TEXT), "manifest"),
    ):
        op.create_table(
            name,
            *(_need(*one), _need(other, ID), sa.PrimaryKeyConstraint(one[0], other)),
            *(_of(one[0], f"{one[0]}s"), _of(other, f"{other}s")),
            sqlite_with_rowid=False,
        )
        op.create_index(f"{name}_by_{other}", name, [other])


def _let_go() -> None:
    op.create_table("doomed", _need("key", TEXT), _need("since", INT), sa.PrimaryKeyConstraint("key"))
    op.create_table(
        "collections",
        *(_need("id", ID), _need("at", INT), _need("actor", TEXT), _need("fingerprint", TEXT), _need("live", INT)),
        *(_may("ended_at", INT), _may("freed", INT), sa.PrimaryKeyConstraint("id")),
    )

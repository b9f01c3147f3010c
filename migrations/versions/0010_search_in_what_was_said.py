"""search in what was said"""

import sqlalchemy as sa
from alembic import op

from trunkline.calls.words import indexed

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_BATCH = 2000


def upgrade() -> None:
    op.create_table(
        "spoken",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("turn_id", sa.String(length=40), nullable=False),
        sa.Column("call_id", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_spoken_turn_id_turns"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spoken")),
        sa.UniqueConstraint("turn_id", name=op.f("uq_spoken_turn_id")),
    )
    _fill()
    op.create_index(op.f("ix_spoken_call_id"), "spoken", ["call_id"])
    if op.get_bind().dialect.name == "postgresql":
        # The words are ASCII letters and digits already: no parser of PostgreSQL's is to split them.
        op.execute(
            "CREATE INDEX spoken_fts ON spoken USING gin "
            "(array_to_tsvector(string_to_array(btrim(words), ' ')))"
        )
        # Which words are common decides how they are searched, so more of them are remembered.
        op.execute("ALTER INDEX spoken_fts ALTER COLUMN 1 SET STATISTICS 1000")
        op.execute("ANALYZE spoken")
        return
    op.execute(
        "CREATE VIRTUAL TABLE spoken_fts USING fts5("
        "words, content='spoken', content_rowid='id', tokenize='ascii', detail='none', columnsize=0)"
    )
    op.execute("INSERT INTO spoken_fts(spoken_fts) VALUES ('rebuild')")
    gone = "INSERT INTO spoken_fts(spoken_fts, rowid, words) VALUES ('delete', old.id, old.words);"
    come = "INSERT INTO spoken_fts(rowid, words) VALUES (new.id, new.words);"
    for name, when, does in (
        ("spoken_come", "INSERT", come),
        ("spoken_gone", "DELETE", gone),
        ("spoken_new", "UPDATE", gone + come),
    ):
        op.execute(f"CREATE TRIGGER {name} AFTER {when} ON spoken BEGIN {does} END")


def _fill() -> None:
    """Index the turns there are, the oldest first."""
    turns = sa.table(
        "turns",
        *(sa.column(name) for name in ("id", "call_id", "role", "text", "ended_ms")),
    )
    spoken = sa.table(
        "spoken", *(sa.column(name) for name in ("turn_id", "call_id", "role", "words"))
    )
    last = ""
    while True:
        rows = (
            op.get_bind()
            .execute(
                sa.select(turns.c.id, turns.c.call_id, turns.c.role, turns.c.text)
                .where(turns.c.id > last, turns.c.ended_ms.is_not(None))
                .order_by(turns.c.id)
                .limit(_BATCH)
            )
            .all()
        )
        if not rows:
            return
        last = rows[-1].id
        op.bulk_insert(
            spoken,
            [
                {
                    "turn_id": row.id,
                    "call_id": row.call_id,
                    "role": row.role,
                    "words": indexed(row.text),
                }
                for row in rows
            ],
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE spoken_fts")
    op.drop_table("spoken")

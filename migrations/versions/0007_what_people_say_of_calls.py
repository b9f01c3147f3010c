"""review, tags, comments, views and exports of calls, and what the list filters by"""

import sqlalchemy as sa
from alembic import op

import trunkline.kit.db

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_AT = trunkline.kit.db.UtcDateTime(timezone=True)
_SORTED = {
    "direction": "direction",
    "end_reason": "end_reason",
    "profile": "profile_version_id",
    "contact": "contact_id",
    "test": "test",
    "review": "review",
    "transferred": "transferred",
    "crm_failed": "crm_failed",
}
"""Index → column; each has the list's own order behind it."""
_WRITES = "('create_contact', 'log_activity', 'move_deal', 'request_callback', 'take_message')"


def upgrade() -> None:
    for flag in ("transferred", "crm_failed", "test"):
        op.add_column(
            "calls", sa.Column(flag, sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.add_column("calls", sa.Column("duration_ms", sa.Integer(), nullable=True))
    op.add_column("calls", sa.Column("review", sa.String(length=10), nullable=True))
    op.add_column("calls", sa.Column("reviewed_by", sa.String(length=100), nullable=True))
    op.add_column("calls", sa.Column("reviewed_at", _AT, nullable=True))
    op.add_column(
        "tool_runs", sa.Column("writes", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    _fill()
    for index, column in _SORTED.items():
        op.create_index(f"ix_calls_{index}_started_at", "calls", [column, "started_at", "id"])
    op.create_index("ix_calls_duration_ms", "calls", ["duration_ms"])
    op.drop_index("ix_calls_contact_id", "calls")
    op.create_table(
        "call_tags",
        sa.Column("call_id", sa.String(length=40), nullable=False),
        sa.Column("tag", sa.String(length=40), nullable=False),
        sa.Column("by", sa.String(length=100), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.ForeignKeyConstraint(
            ["call_id"], ["calls.id"], name=op.f("fk_call_tags_call_id_calls"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("call_id", "tag", name=op.f("pk_call_tags")),
    )
    op.create_index("ix_call_tags_tag_call_id", "call_tags", ["tag", "call_id"])
    op.create_table(
        "call_comments",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("call_id", sa.String(length=40), nullable=False),
        sa.Column("by_id", sa.String(length=40), nullable=False),
        sa.Column("by", sa.String(length=100), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("offset_ms", sa.Integer(), nullable=True),
        sa.Column("at", _AT, nullable=False),
        sa.ForeignKeyConstraint(
            ["call_id"],
            ["calls.id"],
            name=op.f("fk_call_comments_call_id_calls"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_call_comments")),
    )
    op.create_index(op.f("ix_call_comments_call_id"), "call_comments", ["call_id"])
    op.create_table(
        "call_views",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("query", sa.String(length=2000), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_call_views")),
    )
    op.create_index(op.f("ix_call_views_owner_id"), "call_views", ["owner_id"])
    op.create_table(
        "call_exports",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("query", sa.String(length=2000), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("bom", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("leased_until", _AT, nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("blob_key", sa.String(length=200), nullable=True),
        sa.Column("error", sa.String(length=300), nullable=True),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("finished_at", _AT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_call_exports")),
    )
    op.create_index(
        "ix_call_exports_owner_id_created_at", "call_exports", ["owner_id", "created_at"]
    )
    unfinished = sa.text("finished_at IS NULL")
    op.create_index(
        "ix_call_exports_open",
        "call_exports",
        ["created_at"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )


def _fill() -> None:
    """What the new columns would hold, had they been there when the calls were made."""
    if op.get_bind().dialect.name == "postgresql":
        span = "EXTRACT(EPOCH FROM ended_at - answered_at) * 1000"
        yes, no = "true", "false"
    else:
        span = "ROUND((julianday(ended_at) - julianday(answered_at)) * 86400000)"
        yes, no = "1", "0"
    op.execute(
        f"UPDATE calls SET duration_ms = CAST({span} AS INTEGER)"  # noqa: S608 - constants
        " WHERE answered_at IS NOT NULL AND ended_at IS NOT NULL"
    )
    op.execute(f"UPDATE calls SET test = {yes} WHERE channel IN ('test', 'loopback')")  # noqa: S608
    op.execute(
        f"UPDATE calls SET transferred = {yes} WHERE end_reason = 'transferred'"  # noqa: S608
    )
    op.execute(f"UPDATE tool_runs SET writes = {yes} WHERE name IN {_WRITES}")  # noqa: S608
    op.execute(
        f"UPDATE calls SET crm_failed = {yes} WHERE id IN ("  # noqa: S608
        f"SELECT call_id FROM tool_runs f WHERE f.writes <> {no} AND f.state = 'error'"
        " AND f.error <> 'repeated' AND NOT EXISTS (SELECT 1 FROM tool_runs o WHERE"
        " o.call_id = f.call_id AND o.name = f.name AND o.state = 'ok' AND o.seq > f.seq))"
    )


def downgrade() -> None:
    for table in ("call_exports", "call_views", "call_comments", "call_tags"):
        op.drop_table(table)
    op.create_index("ix_calls_contact_id", "calls", ["contact_id"])
    op.drop_index("ix_calls_duration_ms", "calls")
    for index in _SORTED:
        op.drop_index(f"ix_calls_{index}_started_at", "calls")
    with op.batch_alter_table("tool_runs") as runs:
        runs.drop_column("writes")
    with op.batch_alter_table("calls") as calls:
        for column in (
            "reviewed_at", "reviewed_by", "review", "test", "crm_failed", "transferred",
            "duration_ms",
        ):  # fmt: skip
            calls.drop_column(column)

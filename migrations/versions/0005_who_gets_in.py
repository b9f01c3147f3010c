"""who gets in"""

import sqlalchemy as sa
from alembic import op

import trunkline.kit.db

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("numbers", sa.Column("timezone", sa.String(length=60), nullable=True))
    op.create_table(
        "blocked_callers",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("pattern", sa.String(length=32), nullable=False),
        sa.Column("action", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("created_at", trunkline.kit.db.UtcDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", trunkline.kit.db.UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blocked_callers")),
        sa.UniqueConstraint("pattern", name=op.f("uq_blocked_callers_pattern")),
    )
    op.add_column("calls", sa.Column("attestation", sa.String(length=1), nullable=True))
    op.add_column("calls", sa.Column("door", sa.String(length=20), nullable=True))
    op.add_column("calls", sa.Column("door_reason", sa.String(length=200), nullable=True))
    op.create_index("ix_calls_from_number_started_at", "calls", ["from_number", "started_at"])
    op.create_index(
        "ix_calls_live",
        "calls",
        ["profile_version_id", "door"],
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_calls_live", table_name="calls")
    op.drop_index("ix_calls_from_number_started_at", table_name="calls")
    for column in ("door_reason", "door", "attestation"):
        op.drop_column("calls", column)
    op.drop_table("blocked_callers")
    op.drop_column("numbers", "timezone")

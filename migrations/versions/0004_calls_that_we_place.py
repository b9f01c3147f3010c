"""calls that we place"""

import sqlalchemy as sa
from alembic import op

import trunkline.kit.db

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("calls", sa.Column("reason", sa.String(length=600), nullable=True))
    op.add_column("calls", sa.Column("activity_id", sa.String(length=40), nullable=True))
    op.add_column("calls", sa.Column("retry_of", sa.String(length=40), nullable=True))
    op.add_column("calls", sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"))
    op.add_column(
        "calls", sa.Column("due_at", trunkline.kit.db.UtcDateTime(timezone=True), nullable=True)
    )
    op.add_column(
        "calls", sa.Column("sent_at", trunkline.kit.db.UtcDateTime(timezone=True), nullable=True)
    )
    op.add_column("calls", sa.Column("sent", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_calls_activity_id", "calls", ["activity_id"])
    op.create_index("ix_calls_to_number_started_at", "calls", ["to_number", "started_at"])
    queued = sa.text("state = 'queued'")
    op.create_index(
        "ix_calls_queued", "calls", ["due_at"], sqlite_where=queued, postgresql_where=queued
    )


def downgrade() -> None:
    op.drop_index("ix_calls_queued", "calls")
    op.drop_index("ix_calls_to_number_started_at", "calls")
    op.drop_index("ix_calls_activity_id", "calls")
    with op.batch_alter_table("calls") as calls:
        for column in (
            "sent", "sent_at", "due_at", "attempt", "retry_of", "activity_id", "reason",
        ):  # fmt: skip
            calls.drop_column(column)

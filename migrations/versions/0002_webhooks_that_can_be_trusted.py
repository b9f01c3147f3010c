"""webhooks: secrets, formats, order, limits, repair"""

import sqlalchemy as sa
from alembic import op

import trunkline.kit.db

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_QUEUED = sa.text("state IN ('pending', 'held')")
_FAILED = sa.text("state = 'failed'")
_PENDING = sa.text("state = 'pending'")


def _moment(name: str) -> sa.Column:
    return sa.Column(name, trunkline.kit.db.UtcDateTime(timezone=True), nullable=True)


def upgrade() -> None:
    with op.batch_alter_table("endpoints") as batch_op:
        batch_op.alter_column(
            "secret", existing_type=sa.String(length=200), type_=sa.Text(), existing_nullable=False
        )
        batch_op.add_column(sa.Column("old_secret", sa.Text(), nullable=True))
        batch_op.add_column(_moment("old_secret_until"))
        batch_op.add_column(sa.Column("headers", sa.JSON(), server_default="{}", nullable=False))
        batch_op.add_column(
            sa.Column("format", sa.String(length=10), server_default="standard", nullable=False)
        )
        batch_op.add_column(
            sa.Column("ordered", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        batch_op.add_column(
            sa.Column("hook", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        batch_op.add_column(
            sa.Column("ignored_sources", sa.JSON(), server_default="[]", nullable=False)
        )
        batch_op.add_column(sa.Column("rate_per_s", sa.Integer(), nullable=True))
        batch_op.add_column(_moment("not_before"))
        batch_op.add_column(_moment("failing_since"))
        batch_op.add_column(sa.Column("failures", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(_moment("deleted_at"))
    with op.batch_alter_table("deliveries") as batch_op:
        batch_op.add_column(
            sa.Column("position", sa.BigInteger(), server_default="0", nullable=False)
        )
        batch_op.add_column(
            sa.Column("resent_after", sa.Integer(), server_default="0", nullable=False)
        )
        batch_op.drop_index("ix_deliveries_due")
        batch_op.create_index(
            "ix_deliveries_due",
            ["endpoint_id", "next_at", "id"],
            sqlite_where=_PENDING,
            postgresql_where=_PENDING,
        )
        batch_op.create_index(
            "ix_deliveries_queue",
            ["endpoint_id", "subject", "position"],
            sqlite_where=_QUEUED,
            postgresql_where=_QUEUED,
        )
        batch_op.create_index(
            "ix_deliveries_failed",
            ["endpoint_id", "id"],
            sqlite_where=_FAILED,
            postgresql_where=_FAILED,
        )
    with op.batch_alter_table("attempts") as batch_op:
        batch_op.add_column(_moment("next_at"))


def downgrade() -> None:
    with op.batch_alter_table("attempts") as batch_op:
        batch_op.drop_column("next_at")
    with op.batch_alter_table("deliveries") as batch_op:
        batch_op.drop_index("ix_deliveries_failed")
        batch_op.drop_index("ix_deliveries_queue")
        batch_op.drop_index("ix_deliveries_due")
        batch_op.create_index(
            "ix_deliveries_due",
            ["endpoint_id", "next_at"],
            sqlite_where=_PENDING,
            postgresql_where=_PENDING,
        )
        batch_op.drop_column("resent_after")
        batch_op.drop_column("position")
    # What is left of deleted endpoints would come alive, and what is held could never be sent.
    op.execute(sa.text("UPDATE deliveries SET state = 'pending' WHERE state = 'held'"))
    op.execute(
        sa.text(
            "UPDATE deliveries SET state = 'failed' WHERE state = 'pending' AND endpoint_id IN "
            "(SELECT id FROM endpoints WHERE deleted_at IS NOT NULL)"
        )
    )
    op.execute(sa.text("UPDATE endpoints SET enabled = false WHERE deleted_at IS NOT NULL"))
    with op.batch_alter_table("endpoints") as batch_op:
        for name in (
            "deleted_at",
            "failures",
            "failing_since",
            "not_before",
            "rate_per_s",
            "ignored_sources",
            "hook",
            "ordered",
            "format",
            "headers",
            "old_secret_until",
            "old_secret",
        ):
            batch_op.drop_column(name)
        batch_op.alter_column(
            "secret", existing_type=sa.Text(), type_=sa.String(length=200), existing_nullable=False
        )

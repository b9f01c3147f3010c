"""which models answered, what a call took of them, and what it cost"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("turns", sa.Column("models", sa.JSON(), nullable=True))
    op.add_column("calls", sa.Column("usage", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("calls") as calls:
        calls.drop_column("usage")
    with op.batch_alter_table("turns") as turns:
        turns.drop_column("models")

"""of one owner no two views of a name"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The newest is what was saved last.
    op.execute(
        "DELETE FROM call_views WHERE EXISTS (SELECT 1 FROM call_views newer WHERE "
        "newer.owner_id = call_views.owner_id AND newer.name = call_views.name "
        "AND newer.id > call_views.id)"
    )
    op.drop_index("ix_call_views_owner_id", "call_views")
    op.create_index("ix_call_views_owner_id_name", "call_views", ["owner_id", "name"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_call_views_owner_id_name", "call_views")
    op.create_index("ix_call_views_owner_id", "call_views", ["owner_id"])

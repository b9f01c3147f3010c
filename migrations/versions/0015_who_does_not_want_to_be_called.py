"""who said that somebody is not to be called, and when"""

import sqlalchemy as sa
from alembic import op

import trunkline.kit.db

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Of those who came with the flag the ledger has no line of its own, and it stays unsaid.
_FILL = """
    UPDATE contacts SET
    do_not_call_by = (
        SELECT actor FROM changes
        WHERE changes.entity = 'contact' AND changes.entity_id = contacts.id
        AND changes.field = 'do_not_call' ORDER BY changes.id DESC LIMIT 1
    ),
    do_not_call_at = (
        SELECT created_at FROM changes
        WHERE changes.entity = 'contact' AND changes.entity_id = contacts.id
        AND changes.field = 'do_not_call' ORDER BY changes.id DESC LIMIT 1
    )
    WHERE do_not_call
"""


def upgrade() -> None:
    op.add_column("contacts", sa.Column("do_not_call_by", sa.String(length=100), nullable=True))
    op.add_column(
        "contacts",
        sa.Column("do_not_call_at", trunkline.kit.db.UtcDateTime(timezone=True), nullable=True),
    )
    op.execute(_FILL)


def downgrade() -> None:
    with op.batch_alter_table("contacts") as contacts:
        contacts.drop_column("do_not_call_at")
        contacts.drop_column("do_not_call_by")

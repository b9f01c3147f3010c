"""who people are at an identity provider, attempts to sign in there, how a login was opened"""

import sqlalchemy as sa
from alembic import op

import trunkline.kit.db

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_AT = trunkline.kit.db.UtcDateTime(timezone=True)


def upgrade() -> None:
    op.add_column("users", sa.Column("oidc_issuer", sa.String(length=255), nullable=True))
    op.add_column("users", sa.Column("oidc_subject", sa.String(length=255), nullable=True))
    op.create_index(
        op.f("ix_users_oidc_issuer_oidc_subject"),
        "users",
        ["oidc_issuer", "oidc_subject"],
        unique=True,
    )
    op.add_column(
        "logins",
        sa.Column("method", sa.String(length=20), server_default="password", nullable=False),
    )
    op.create_table(
        "sign_ins",
        sa.Column("state_sha256", sa.String(length=64), nullable=False),
        sa.Column("browser_sha256", sa.String(length=64), nullable=False),
        sa.Column("next", sa.String(length=2000), nullable=False),
        sa.Column("address", sa.String(length=60), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("state_sha256", name=op.f("pk_sign_ins")),
    )
    op.create_index(op.f("ix_sign_ins_address"), "sign_ins", ["address"])
    op.create_index(op.f("ix_sign_ins_created_at"), "sign_ins", ["created_at"])


def downgrade() -> None:
    op.drop_table("sign_ins")
    with op.batch_alter_table("logins") as logins:
        logins.drop_column("method")
    op.drop_index(op.f("ix_users_oidc_issuer_oidc_subject"), "users")
    with op.batch_alter_table("users") as users:
        users.drop_column("oidc_subject")
        users.drop_column("oidc_issuer")

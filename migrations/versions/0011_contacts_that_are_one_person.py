"""contacts that are one person, companies of one name, why not to call, and who changed what"""

from typing import Any
from unicodedata import normalize

import sqlalchemy as sa
from alembic import op

import trunkline.kit.db

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_AT = trunkline.kit.db.UtcDateTime(timezone=True)
_KEY = sa.String(length=600)
_BATCH = 500

_companies = sa.table("companies", sa.column("id"), sa.column("name"), sa.column("name_key"))
_contacts = sa.table(
    "contacts",
    *map(sa.column, ("id", "name", "name_key", "email", "email_key", "company_id")),
)
_deals = sa.table("deals", sa.column("id"), sa.column("company_id"))


def _key(text: str) -> str:
    return " ".join(normalize("NFKC", text).casefold().split())[:600]


def upgrade() -> None:
    op.add_column("companies", sa.Column("name_key", _KEY, nullable=True))
    with op.batch_alter_table("contacts") as contacts:
        contacts.add_column(sa.Column("name_key", _KEY, nullable=True))
        contacts.add_column(sa.Column("email_key", _KEY, nullable=True))
        contacts.add_column(sa.Column("do_not_call_reason", sa.String(length=200), nullable=True))
        contacts.add_column(sa.Column("merged_into", sa.String(length=40), nullable=True))
        contacts.create_foreign_key(
            op.f("fk_contacts_merged_into_contacts"), "contacts", ["merged_into"], ["id"]
        )
    op.add_column("changes", sa.Column("actor", sa.String(length=100), nullable=True))
    _one_company_of_a_name()
    _fold_contacts()
    with op.batch_alter_table("companies") as companies:
        companies.alter_column("name_key", existing_type=_KEY, nullable=False)
        companies.create_unique_constraint(op.f("uq_companies_name_key"), ["name_key"])
    for column in ("name_key", "email_key", "merged_into"):
        op.create_index(op.f(f"ix_contacts_{column}"), "contacts", [column])
    op.create_table(
        "contact_merges",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("contact_id", sa.String(length=40), nullable=False),
        sa.Column("merged_id", sa.String(length=40), nullable=False),
        sa.Column("change_id", sa.String(length=40), nullable=False),
        sa.Column("moved", sa.JSON(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.ForeignKeyConstraint(
            ["contact_id"], ["contacts.id"], name=op.f("fk_contact_merges_contact_id_contacts")
        ),
        sa.ForeignKeyConstraint(
            ["merged_id"], ["contacts.id"], name=op.f("fk_contact_merges_merged_id_contacts")
        ),
        sa.ForeignKeyConstraint(
            ["change_id"], ["changes.id"], name=op.f("fk_contact_merges_change_id_changes")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contact_merges")),
    )
    for column in ("contact_id", "merged_id", "change_id"):
        op.create_index(op.f(f"ix_contact_merges_{column}"), "contact_merges", [column])


def _one_company_of_a_name() -> None:
    """Of companies of one name the oldest stays, and gets the people and deals of the others."""
    bind = op.get_bind()
    kept: dict[str, str] = {}
    rows = bind.execute(sa.select(_companies.c.id, _companies.c.name).order_by(_companies.c.id))
    for id_, name in rows.all():
        stays = kept.setdefault(_key(name), id_)
        if stays == id_:
            bind.execute(
                sa.update(_companies).where(_companies.c.id == id_).values(name_key=_key(name))
            )
            continue
        for table in (_contacts, _deals):
            bind.execute(sa.update(table).where(table.c.company_id == id_).values(company_id=stays))
        bind.execute(sa.delete(_companies).where(_companies.c.id == id_))


def _fold_contacts() -> None:
    bind = op.get_bind()
    last = ""
    while True:
        rows = bind.execute(
            sa.select(_contacts.c.id, _contacts.c.name, _contacts.c.email)
            .where(_contacts.c.id > last)
            .order_by(_contacts.c.id)
            .limit(_BATCH)
        ).all()
        if not rows:
            return
        last = rows[-1].id
        folded: list[dict[str, Any]] = [
            {
                "this": row.id,
                "name_key": None if row.name is None else _key(row.name),
                "email_key": None if row.email is None else _key(row.email),
            }
            for row in rows
        ]
        bind.execute(
            sa.update(_contacts)
            .where(_contacts.c.id == sa.bindparam("this"))
            .values(name_key=sa.bindparam("name_key"), email_key=sa.bindparam("email_key")),
            folded,
        )


def downgrade() -> None:
    op.drop_table("contact_merges")
    for column in ("name_key", "email_key", "merged_into"):
        op.drop_index(op.f(f"ix_contacts_{column}"), "contacts")
    with op.batch_alter_table("changes") as changes:
        changes.drop_column("actor")
    with op.batch_alter_table("contacts") as contacts:
        contacts.drop_constraint(op.f("fk_contacts_merged_into_contacts"), type_="foreignkey")
        for column in ("merged_into", "do_not_call_reason", "email_key", "name_key"):
            contacts.drop_column(column)
    with op.batch_alter_table("companies") as companies:
        companies.drop_constraint(op.f("uq_companies_name_key"), type_="unique")
        companies.drop_column("name_key")

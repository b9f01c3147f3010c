"""Tables of the CRM: contacts and their numbers, companies, pipelines, deals, activities, the ledger, which
contacts were merged, what other systems call each of them, and files that are being imported."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column, relationship, validates

from trunkline.crm import fields
from trunkline.kit.db import Base


class Company(Base):
    """An organisation that contacts belong to."""

    __tablename__ = "companies"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), index=True)
    name_key: Mapped[str] = mapped_column(String(fields.LONGEST_KEY), unique=True)
    """The name as ``fields.key`` folds it: there is one company of a name, whatever the case."""
    created_at: Mapped[datetime]

    @validates("name")
    def _fold(self, _: str, name: str) -> str:
        self.name_key = fields.key(name)
        return name


class Contact(Base):
    """A person who calls or is called."""

    __tablename__ = "contacts"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(200), index=True)
    name_key: Mapped[str | None] = mapped_column(String(fields.LONGEST_KEY), index=True)
    """The name as ``fields.key`` folds it, to find it by."""
    email: Mapped[str | None] = mapped_column(String(320))
    email_key: Mapped[str | None] = mapped_column(String(fields.LONGEST_KEY), index=True)
    company_id: Mapped[str | None] = mapped_column(ForeignKey("companies.id"), index=True)
    tags: Mapped[list[str]]
    do_not_call: Mapped[bool] = mapped_column(default=False)
    do_not_call_reason: Mapped[str | None] = mapped_column(String(200))
    do_not_call_by: Mapped[str | None] = mapped_column(String(100))
    """Who said so, by the name they had then: a person, or a key of the API. None when it is not known."""
    do_not_call_at: Mapped[datetime | None]
    merged_into: Mapped[str | None] = mapped_column(ForeignKey("contacts.id"), index=True)
    """The contact that this one turned out to be; never itself a merged one. Its numbers, calls, deals and
    activities are with that one."""
    source: Mapped[str] = mapped_column(String(20))
    """Who made it: call, api, import, person or demo."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    company: Mapped[Company | None] = relationship(lazy="joined")
    phones: Mapped[list["ContactPhone"]] = relationship(
        back_populates="contact", lazy="selectin", order_by="ContactPhone.id"
    )

    @validates("name", "email")
    def _fold(self, field: str, text: str | None) -> str | None:
        setattr(self, f"{field}_key", None if text is None else fields.key(text))
        return text


class ContactPhone(Base):
    """A telephone number of a contact. A number belongs to one contact."""

    __tablename__ = "contact_phones"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    contact_id: Mapped[str] = mapped_column(ForeignKey("contacts.id"), index=True)
    e164: Mapped[str] = mapped_column(String(32), unique=True)
    raw: Mapped[str] = mapped_column(String(100))
    """As it was given, before it was normalised."""
    label: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]

    contact: Mapped[Contact] = relationship(back_populates="phones")


class Pipeline(Base):
    """A way that deals go, stage by stage."""

    __tablename__ = "pipelines"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(60), unique=True)
    stages: Mapped[list[dict[str, Any]]]
    """In order: ``{"name": "proposal", "outcome": "open" | "won" | "lost"}``."""


class Deal(Base):
    """A possible sale to a contact."""

    __tablename__ = "deals"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    contact_id: Mapped[str | None] = mapped_column(ForeignKey("contacts.id"), index=True)
    company_id: Mapped[str | None] = mapped_column(ForeignKey("companies.id"))
    pipeline: Mapped[str] = mapped_column(String(60))
    stage: Mapped[str] = mapped_column(String(60))
    outcome: Mapped[str] = mapped_column(String(10))
    """open, won or lost: the stage's, kept here so that open deals are found by index."""
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __table_args__ = (Index("ix_deals_contact_id_outcome", "contact_id", "outcome"),)


class Activity(Base):
    """Something done or to be done: a call, note, task or meeting."""

    __tablename__ = "activities"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    summary: Mapped[str] = mapped_column(Text)
    contact_id: Mapped[str | None] = mapped_column(ForeignKey("contacts.id"))
    deal_id: Mapped[str | None] = mapped_column(ForeignKey("deals.id"), index=True)
    call_id: Mapped[str | None] = mapped_column(String(40), index=True)
    due_at: Mapped[datetime | None]
    """Tasks only: when it is to be done."""
    done_at: Mapped[datetime | None]
    created_at: Mapped[datetime]

    __table_args__ = (Index("ix_activities_contact_id_created_at", "contact_id", "created_at"),)


class ExternalId(Base):
    """What another system calls a contact, deal or activity. One thing may have a name in several systems."""

    __tablename__ = "external_ids"

    entity: Mapped[str] = mapped_column(String(20), primary_key=True)
    """contact, deal or activity."""
    source: Mapped[str] = mapped_column(String(20), primary_key=True)
    """The system, by the name it gives itself: ``hubspot``."""
    external_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    entity_id: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime]

    __table_args__ = (Index("ix_external_ids_entity_entity_id", "entity", "entity_id"),)


class Change(Base):
    """The ledger: one row per field that changed, with what it was and on what evidence."""

    __tablename__ = "changes"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    entity: Mapped[str] = mapped_column(String(20))
    """contact, deal or activity."""
    entity_id: Mapped[str] = mapped_column(String(40))
    field: Mapped[str] = mapped_column(String(40))
    """The column, or ``*`` when the row itself came into being."""
    before: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    source: Mapped[str] = mapped_column(String(20))
    actor: Mapped[str | None] = mapped_column(String(100))
    """Who it was, by the name they had then: a person, or a key of the API."""
    call_id: Mapped[str | None] = mapped_column(String(40), index=True)
    tool_run_id: Mapped[str | None] = mapped_column(String(40))
    turn_id: Mapped[str | None] = mapped_column(String(40))
    offset_ms: Mapped[int | None] = mapped_column(Integer)
    """Milliseconds into the recording where it was agreed to."""
    created_at: Mapped[datetime]
    undone_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_changes_entity_entity_id", "entity", "entity_id"),)


class Merge(Base):
    """Two contacts that were one person: what went from one to the other, so that it can go back."""

    __tablename__ = "contact_merges"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    contact_id: Mapped[str] = mapped_column(ForeignKey("contacts.id"), index=True)
    """Who stays."""
    merged_id: Mapped[str] = mapped_column(ForeignKey("contacts.id"), index=True)
    change_id: Mapped[str] = mapped_column(ForeignKey("changes.id"), index=True)
    """Its row in the ledger."""
    moved: Mapped[dict[str, Any]]
    """Ids by kind: phones, calls, deals, activities, contacts (merged into the other before), and
    external_ids as [source, external id]."""
    created_at: Mapped[datetime]


class Import(Base):
    """A file of contacts on its way in. See ``desk.imports`` for its states."""

    __tablename__ = "contact_imports"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(String(40))
    owner: Mapped[str] = mapped_column(String(100))
    """Who brought it, by the name they had then: a person, or a key of the API."""
    file_name: Mapped[str] = mapped_column(String(200))
    blob_key: Mapped[str | None] = mapped_column(String(200))
    """The file, as long as it is needed."""
    encoding: Mapped[str] = mapped_column(String(20))
    delimiter: Mapped[str] = mapped_column(String(1))
    header: Mapped[list[str]]
    sample: Mapped[list[list[str]]] = mapped_column(JSON)
    """The first rows."""
    columns: Mapped[list[str]]
    """What each column holds, by ``crm.mapping``."""
    region: Mapped[str | None] = mapped_column(String(2))
    """Where numbers without a country code are."""
    source: Mapped[str] = mapped_column(String(20))
    """Whose the external ids are."""
    on_match: Mapped[str] = mapped_column(String(10))
    """What becomes of people who are there already: update or skip."""
    state: Mapped[str] = mapped_column(String(10))
    total: Mapped[int] = mapped_column(Integer)
    """Rows of the file, without the headings."""
    done: Mapped[int] = mapped_column(Integer, default=0)
    """Rows that are through: of the check, then of the import."""
    made: Mapped[int] = mapped_column(Integer, default=0)
    changed: Mapped[int] = mapped_column(Integer, default=0)
    same: Mapped[int] = mapped_column(Integer, default=0)
    """People who were there already, of whom nothing changed."""
    failed: Mapped[int] = mapped_column(Integer, default=0)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    """How often somebody took it up; what an earlier one still writes is refused."""
    leased_until: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(String(300))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_contact_imports_created_at", "created_at"),
        Index(
            "ix_contact_imports_open",
            "created_at",
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
    )


class ImportFault(Base):
    """A row that was not imported, and why."""

    __tablename__ = "contact_import_faults"

    import_id: Mapped[str] = mapped_column(
        ForeignKey("contact_imports.id", ondelete="CASCADE"), primary_key=True
    )
    line: Mapped[int] = mapped_column(Integer, primary_key=True)
    """Where it stands in the file, counted from 1."""
    cells: Mapped[list[str]]
    reason: Mapped[str] = mapped_column(Text)

"""Taking a caller whom nobody knew into the records."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import service as calls
from trunkline.crm import queries, service
from trunkline.crm.models import Contact
from trunkline.kit.phone import PhoneNumber


async def create_caller(
    session: AsyncSession,
    call_id: str,
    known_id: str | None,
    *,
    name: str,
    company: str | None,
    phone: PhoneNumber | None,
    cause: service.Cause,
    now: datetime,
) -> tuple[Contact, bool]:
    """The caller's contact, and whether it is new: made with *phone*, or the known one, its name filled in.

    The name of a known contact is never replaced: a model mishears names.
    """
    if known_id is not None:
        contact = await queries.contact(session, known_id)
        if contact.name is None:
            contact = await service.update_contact(
                session, known_id, {"name": name}, cause=cause, now=now
            )
        return contact, False
    contact = await service.create_contact(
        session,
        name=name,
        phones=(phone,) if phone else (),
        company=company,
        cause=cause,
        now=now,
    )
    await calls.attach_contact(session, call_id, contact.id)
    return contact, True

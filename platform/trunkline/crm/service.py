"""Verbs that write the CRM. Each adds the change, its ledger rows and its event to one transaction."""

from trunkline.crm.activities import KINDS, complete_task, log_activity, update_activity
from trunkline.crm.contacts import add_phone, create_contact, update_contact
from trunkline.crm.deals import (
    OUTCOMES,
    Stage,
    create_deal,
    create_pipeline,
    move_deal,
    update_deal,
)
from trunkline.crm.ledger import CREATED, Cause
from trunkline.crm.undo import undo

__all__ = [
    "CREATED",
    "KINDS",
    "OUTCOMES",
    "Cause",
    "Stage",
    "add_phone",
    "complete_task",
    "create_contact",
    "create_deal",
    "create_pipeline",
    "log_activity",
    "move_deal",
    "undo",
    "update_activity",
    "update_contact",
    "update_deal",
]

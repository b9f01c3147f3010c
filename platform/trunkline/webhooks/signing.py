"""Signatures as Standard Webhooks defines them (https://www.standardwebhooks.com, specification 1.0.0).

``webhook-id`` is the event's id: the specification wants it to name the event and to stay the same
over all attempts, so that a receiver can use it to do a thing only once. Two endpoints, a
resend and a replay thus carry the same id for the same event. ``webhook-timestamp`` is the moment
of the attempt.
"""

import base64
import secrets as random
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks.webhooks import Webhook

_SECRET_BYTES = 32  # the specification asks for 24 to 64


def new_secret() -> str:
    """A fresh signing secret, ``whsec_`` and base64."""
    return "whsec_" + base64.b64encode(random.token_bytes(_SECRET_BYTES)).decode()


def headers(body: bytes, *, event_id: str, at: datetime, secrets: Sequence[str]) -> dict[str, str]:
    """The three headers that prove *body* was sent by us at *at*.

    One signature per secret, so that while a secret is being replaced both the old and the new one verify.
    """
    signatures = [Webhook(secret).sign(event_id, at, body.decode()) for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }

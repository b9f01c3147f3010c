"""How a receiver verifies a delivery, to be copied from the pages."""

VERIFY: tuple[tuple[str, str], ...] = (
    (
        "Python",
        """from standardwebhooks import Webhook

event = Webhook(secret).verify(body, headers)  # raises WebhookVerificationError""",
    ),
    (
        "Node",
        """import { Webhook } from "standardwebhooks";

const event = new Webhook(secret).verify(body, headers); // throws WebhookVerificationError""",
    ),
    (
        "curl and openssl",
        """# $SECRET, $ID, $TIMESTAMP, $SIGNATURE from the headers, the body in the file $BODY
key=$(printf %s "${SECRET#whsec_}" | base64 -d | od -An -tx1 | tr -d ' \\n')
mine=$({ printf '%s.%s.' "$ID" "$TIMESTAMP"; cat "$BODY"; } | \\
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)
case " $SIGNATURE " in *" v1,$mine "*) echo verified ;; *) echo forged ;; esac""",
    ),
)
"""Language → code, over the raw body and the headers ``webhook-id``, ``-timestamp`` and ``-signature``
(https://www.standardwebhooks.com). The same as in docs/webhooks.md."""

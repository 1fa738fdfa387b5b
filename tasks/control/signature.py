"""Signing what is sent to a webhook.

Source: Standard Webhooks 1.0.0, https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
("Signature scheme"): HMAC-SHA-256 over `id.timestamp.body`, in base64 behind `v1,`.
"""

import base64
import hmac
from hashlib import sha256

PREFIX = "whsec_"


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for: after `whsec_` it is base64, any other text is its own UTF-8 bytes."""
    if secret.startswith(PREFIX):
        return base64.b64decode(secret.removeprefix(PREFIX))
    return secret.encode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` of a message that is sent at this moment, in seconds since 1970."""
    signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, sha256)).decode()

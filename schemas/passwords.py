"""Secrets in settings and URIs: what is one, and texts without them. Knows nothing of where they are kept.

Secrets belong into Spark's own configuration or the platform's credential provider, never into a catalog, a path or a message.
"""

import re
from collections.abc import Iterable

SECRET_KEY = re.compile(r"secret|passw|token|access[._-]?key|account[._-]?key|credential", re.IGNORECASE)  # Spark's own redaction, and a little more
IN_URI = re.compile(r"(:/{1,2})([^\s/@:]*):[^\s/]*@")  # one slash: a URI that was read as a path
HIDDEN = "*****"
SHORTEST = 4  # characters: shorter ones are no secrets, and hiding them would garble messages


def has_password(uri: str) -> bool:
    """Whether it is of the form scheme://user:password@host; a user alone (abfss://container@account) is none."""
    return IN_URI.search(uri) is not None


def secrets_in(arguments: Iterable[str]) -> list[str]:
    """Values of `key=value` arguments whose key says that they are secret; options of ours hold none, `--tokenizer-version=v1` neither."""
    pairs = (argument.removeprefix("--conf=").partition("=") for argument in arguments)
    return [value for key, _, value in pairs if SECRET_KEY.search(key) and not key.startswith("-")]


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` with these secrets, and passwords in URIs, replaced by asterisks."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    return IN_URI.sub(rf"\1\2:{HIDDEN}@", text)

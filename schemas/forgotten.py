"""`forgotten`: whose rows are refused from now on, as keyed hashes. Key: hmac. The ids themselves are nowhere."""

from schemas.table import RUN_ID, Table, required

FORGOTTEN = Table(
    name="forgotten",
    comment="Users that asked to be forgotten, by HMAC-SHA256 of their id; the key lies outside the lakehouse.",
    fields=(
        required("hmac", "STRING", "HMAC-SHA256 of the id under the site's key, 64 hex digits."),
        required("key_id", "STRING", "Which key: the first 16 hex digits of the HMAC of a constant under it."),
        required("forgotten_at", "TIMESTAMP", "When it was asked for first."),
        required("certificate_id", "STRING", "Certificate of that removal."),
        RUN_ID,
    ),
)

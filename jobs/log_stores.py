"""Whether several drivers may commit to a lakehouse at once: a pure function of its URI and of Spark's settings.

A file system and most object stores refuse the second creation of one file, which is all that Delta's log needs. Amazon S3
does so only through a log store that keeps its commits in DynamoDB; Delta's default there admits one driver.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from jobs.errors import Infrastructure

MANY_DRIVERS = {"": "a file system, with a lock around commits", "file": "a file system, with a lock around commits"} | dict.fromkeys(
    ("hdfs", "viewfs", "abfs", "abfss", "wasb", "wasbs", "adl", "gs"), "a store whose renames or creations exclude each other"
)
ONE_DRIVER = ("s3", "s3a", "s3n")
COORDINATED = "io.delta.storage.S3DynamoDBLogStore"
OWN_STORES = ("io.delta.storage.S3SingleDriverLogStore", "io.delta.storage.LocalLogStore", "org.apache.spark.sql.delta.storage.LocalLogStore")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogStore:
    """The verdict on one root."""

    many_drivers: bool
    found: str
    remedy: str = ""


def log_store(root: str, conf: Mapping[str, str]) -> LogStore:
    """`conf` are the session's `spark.*` settings. A log store that is not known here is its site's word."""
    scheme = urlsplit(root).scheme
    key = f"spark.delta.logStore.{scheme}.impl"
    given = conf.get(key) if scheme else None
    if given in OWN_STORES:
        return LogStore(many_drivers=False, found=f"{key}={given} admits one driver", remedy=_remedy(key))
    if given is not None:
        return LogStore(many_drivers=True, found=f"{key}={given}")
    if scheme in MANY_DRIVERS:
        return LogStore(many_drivers=True, found=MANY_DRIVERS[scheme])
    found = "Delta's default for S3 admits one driver" if scheme in ONE_DRIVER else f"nothing is known of a log store for {scheme}://"
    return LogStore(many_drivers=False, found=found, remedy=_remedy(key))


def require_many_drivers(what: str, root: str, conf: Mapping[str, str]) -> None:
    """Raises `Infrastructure` where two drivers could both believe that a commit was theirs."""
    store = log_store(root, conf)
    if not store.many_drivers:
        raise Infrastructure(
            f"{what}: {root}: {store.found}, and other drivers may commit meanwhile; {store.remedy}, or say --only-writer if nothing else writes"
        )


def _remedy(key: str) -> str:
    return f"set --conf {key}={COORDINATED} (package io.delta:delta-storage-s3-dynamodb)"

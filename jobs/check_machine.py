"""Checks a machine before anything runs on it: what `u2qt doctor` says. Starts no Spark."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.table import Table

from jobs.errors import Infrastructure
from jobs.log_stores import log_store
from jobs.session import cached_delta_jars, check_java

MIN_MEMORY_GIB = 4
MIN_DISK_GIB = 5
PINNED = ("pyspark", "delta-spark", "petastorm", "pyarrow", "numpy", "pandas", "torch", "great-expectations", "pydantic", "safetensors")
EXPECTED = {"pyspark": "4.0.", "delta-spark": "4.0.", "petastorm": "0.12.1", "pyarrow": "14.0.2", "numpy": "1.26.", "great-expectations": "1.24."}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the doctor's answer."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def run(root: str | None = None, conf: Mapping[str, str] | None = None) -> list[Check]:
    """`root` and `conf` are those of the commands to come; without a root no log store is looked at."""
    machine = [java(), python(), memory(), disk(), *packages(), delta_jars(), gpu()]
    return machine if root is None else [*machine, commits(root, conf or {})]


def commits(root: str, conf: Mapping[str, str]) -> Check:
    store = log_store(root, conf)
    return Check(name="commits", ok=store.many_drivers, found=f"{root}: {store.found}", remedy=store.remedy)


def java() -> Check:
    try:
        return Check(name="Java", ok=True, found=f"version {check_java()}")
    except Infrastructure as error:
        found, _, remedy = str(error).partition("; ")
        return Check(name="Java", ok=False, found=found, remedy=remedy)


def python() -> Check:
    found = platform.python_version()
    return Check(name="Python", ok=found.startswith("3.11."), found=found, remedy="install Python 3.11 and run `make env PYTHON=python3.11`")


def memory() -> Check:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    remedy = f"use a machine with at least {MIN_MEMORY_GIB} GiB, or a cluster (docs/cluster.md)"
    return Check(name="memory", ok=gib >= MIN_MEMORY_GIB, found=f"{gib:.1f} GiB, {os.cpu_count()} cores", remedy=remedy)


def disk() -> Check:
    folder = tempfile.gettempdir()
    gib = shutil.disk_usage(folder).free / 2**30
    return Check(
        name="disk", ok=gib >= MIN_DISK_GIB, found=f"{gib:.0f} GiB free in {folder}", remedy=f"free {MIN_DISK_GIB} GiB, or set TMPDIR: Spark spills there"
    )


def packages() -> list[Check]:
    return [_package(name, importlib.metadata.version) for name in PINNED]


def _package(name: str, version_of: Callable[[str], str]) -> Check:
    remedy = "run `make env` again (it installs requirements.lock)"
    try:
        found = version_of(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, ok=False, found="not installed", remedy=remedy)
    expected = EXPECTED.get(name, "")
    return Check(name=name, ok=found.startswith(expected), found=found, remedy=f"expected {expected}*; {remedy}")


def delta_jars() -> Check:
    jars = cached_delta_jars()
    found = "in the Ivy cache" if jars else "not cached yet: fetched from Maven Central at the first start"
    return Check(name="Delta's jars", ok=True, found=found)


def gpu() -> Check:
    import pyarrow  # noqa: F401 - before torch: the safe order of the two
    import torch

    if not torch.cuda.is_available():
        return Check(name="GPU", ok=True, found="none; the CPU is used")
    return Check(name="GPU", ok=True, found=torch.cuda.get_device_name(0))


def render(checks: list[Check]) -> Table:
    table = Table(title="u2qt doctor", title_justify="left")
    for name in ("", "check", "found", "remedy"):
        table.add_column(name)
    for check in checks:
        table.add_row("ok" if check.ok else "WRONG", check.name, check.found, "" if check.ok else check.remedy)
    return table

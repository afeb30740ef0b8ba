"""What spark-submit needs, in one folder: u2qt-<version>.zip for --py-files, and jobs/*.py to submit.

Reads setup.cfg and the packages beside it; writes <out>/u2qt-<version>.zip and <out>/jobs. Idempotent: the same sources
give the same bytes, on any machine. A build tool for a source checkout; the zip holds no tests and no compiled files.
"""

import configparser
import sys
import zipfile
from pathlib import Path

from jobs.errors import BadInput

PACKAGES = ("expectations", "jobs", "schemas", "u2qt_model")
ENTRIES = {  # file in jobs/ -> file to submit; submitting puts its folder first on sys.path, so names must be nobody else's
    "cli.py": "u2qt.py",
    **{
        f"{stage}.py": f"{stage}.py"
        for stage in (
            "init_lakehouse",
            "validate_sources",
            "build_user_features",
            "train_tokenizer",
            "encode_users",
            "audit_tokens",
            "publish_tokens",
            "write_report",
            "join_labels",
        )
    },
}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
READABLE = 0o100644 << 16  # a plain file that everybody may read
UNIX = 3


def members(root: Path, data: dict[str, tuple[str, ...]]) -> list[str]:
    """Names of the zip, sorted: each package's modules, and the data files that setup.cfg declares for it."""
    files = [path for package in PACKAGES for pattern in ("**/*.py", *data.get(package, ())) for path in (root / package).glob(pattern)]
    return sorted({path.relative_to(root).as_posix() for path in files if path.is_file()})


def package_data(setup: configparser.ConfigParser) -> dict[str, tuple[str, ...]]:
    """Package -> glob patterns."""
    return {package: tuple(part.strip() for part in patterns.split(",")) for package, patterns in setup["options.package_data"].items()}


def write_zip(target: Path, root: Path, names: list[str]) -> None:
    """Stored, not compressed: another zlib would give other bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = UNIX, READABLE
            archive.writestr(entry, (root / name).read_bytes())


def run(out: Path, root: Path) -> Path:
    """Returns the zip. Earlier zips and entry files in `out` are replaced, so that `u2qt-*.zip` is one file."""
    setup = configparser.ConfigParser()
    if not setup.read(root / "setup.cfg", encoding="utf-8"):
        raise BadInput(f"{root}: found no setup.cfg, expected a source checkout; run `make dist` in one")
    if (out / "jobs" / "__init__.py").exists():
        raise BadInput(f"{out}: found the package jobs in it, expected a folder of its own, such as dist")
    entries = out / "jobs"
    entries.mkdir(parents=True, exist_ok=True)
    for stale in (*out.glob("u2qt-*.zip"), *entries.glob("*.py")):
        stale.unlink()
    target = out / f"u2qt-{setup['metadata']['version']}.zip"
    write_zip(target, root, members(root, package_data(setup)))
    for source, entry in ENTRIES.items():
        (entries / entry).write_bytes((root / "jobs" / source).read_bytes())
    return target


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SystemExit("usage: python -m jobs.make_dist FOLDER")
    try:
        target = run(Path(arguments[0]), Path(__file__).resolve().parents[1])
    except BadInput as error:
        sys.stderr.write(f"make_dist: {error}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write(f"{target}: for --py-files; submit {target.parent / 'jobs'}/*.py\n")


if __name__ == "__main__":
    main(sys.argv[1:])

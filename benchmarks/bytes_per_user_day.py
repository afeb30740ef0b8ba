"""Bytes on disk of one user and day in `user_tokens`, beside the features and the raw input they came from."""

import argparse
from pathlib import Path

from benchmarks.lakes import SECOND, prepared, run, where
from jobs.delta_tables import Lakehouse, Where
from jobs.session import build_session
from schemas import keys
from schemas.keys import Days


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--users", type=int, default=20_000)
    arguments = parser.parse_args()
    folder = prepared(arguments.work, arguments.users)
    day = keys.day(SECOND)
    spark = build_session()
    lake = Lakehouse(spark, str(folder / "lakehouse"))
    if not lake.active_files("user_tokens", lake.version("user_tokens"), Where(days=Days(day, day))):
        spark.stop()
        run("run-day", "--ds", SECOND, *where(folder))
        spark = build_session()
        lake = Lakehouse(spark, str(folder / "lakehouse"))
    print(f"\n{arguments.users:,} users, {SECOND}")
    for table in ("user_features", "user_tokens"):
        files = lake.active_files(table, lake.version(table), Where(days=Days(day, day)))
        size = sum(Path(file.url.removeprefix("file://")).stat().st_size for file in files)
        rows = sum(file.rows for file in files)
        print(f"{table:16}{size / rows:10.0f} bytes per user and day ({rows:,} rows in {len(files)} files)")
    raw = sum(f.stat().st_size for f in (folder / "raw").glob(f"*/delivered_ds={SECOND}/*") if f.is_file())
    print(f"{'raw input':16}{raw / rows:10.0f} bytes per active user and day")
    spark.stop()


if __name__ == "__main__":
    main()

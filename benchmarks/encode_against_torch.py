"""`encode_users` against the bare `Tokenizer.encode` on the same rows held in memory: users a second, interleaved.

The bare loop has no Spark, no Petastorm and no Delta: text hashing, projection and quantizer in one process and thread.
"""

import argparse
import statistics
import time
from datetime import date
from pathlib import Path

import u2qt_model
from benchmarks.lakes import FIRST, prepared
from jobs import encode_users
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.registered_tokenizers import find_registered
from jobs.session import build_session
from schemas.catalog_files import load_catalog
from schemas.keys import Days
from u2qt_model.stream import read_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder = prepared(arguments.work, arguments.users)
    spark = build_session()
    lake = Lakehouse(spark, str(folder / "lakehouse"))
    context = Context(spark=spark, lake=lake, catalog=load_catalog(), input_root=str(folder / "raw"), run_id="bench-encode")
    day = date.fromisoformat(FIRST)
    tokenizer = u2qt_model.load(Path(find_registered(context, "bench").checkpoint))
    files = [f.url for f in lake.active_files("user_features", lake.version("user_features")) if f.partition["ds"] == FIRST]
    batches = list(read_files(files, tokenizer.layout))
    users = sum(batch.num_users for batch in batches)
    bare, whole = [], []
    for _ in range(arguments.rounds):
        clock = time.perf_counter()
        for batch in batches:
            tokenizer.encode(batch)
        bare.append(users / (time.perf_counter() - clock))
        clock = time.perf_counter()
        encode_users.run(context, Days(day, day), "bench")
        whole.append(users / (time.perf_counter() - clock))
    spark.stop()
    ratios = sorted(w / b for w, b in zip(whole, bare, strict=True))
    print(f"\n{users:,} user-days, {arguments.rounds} rounds, interleaved")
    print(f"bare encode, one thread:   {statistics.median(bare):10,.0f} users/s")
    print(f"encode_users, all cores:   {statistics.median(whole):10,.0f} users/s (stream, codes, write, checks)")
    print(f"ratio {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()

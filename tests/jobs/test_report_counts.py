"""The report's aggregates on literal rows."""

from pyspark.sql import SparkSession

from jobs import report_counts as counts


def test_the_most_frequent_reasons_win_and_ties_go_by_code(spark: SparkSession) -> None:
    """A row with two reasons counts for both; the sixth reason is left out."""
    rows = [("bill", ["b:x", "a:x"]), ("bill", ["b:x"]), ("bill", [f"{c}:x" for c in "cdefg"]), ("spm", ["z:x"])]
    found = counts.top_reasons(spark.createDataFrame(rows, "source STRING, reasons ARRAY<STRING>"))
    listed = [(row.source, row.reason, row.rows) for row in found.collect()]
    assert listed == [("bill", "b:x", 2), *(("bill", f"{c}:x", 1) for c in "acde"), ("spm", "z:x", 1)]


def test_bins_hold_every_user_once_and_the_last_is_open(spark: SparkSession) -> None:
    """Users without the source are in bin 0; 15 events and 300 are in the last."""
    found = counts.activity_counts(spark.createDataFrame([(0,), (2,), (15,), (300,)], "bill_count INT"), ("bill",))
    bins = {row.bin: (row.users, row.events) for row in found.collect()}
    assert bins == {0: (1, 0), 2: (1, 2), counts.HISTOGRAM_BINS: (2, 315)}


def test_codes_outside_their_codebook_are_told_apart(spark: SparkSession) -> None:
    """Too large, negative, and of a level that the layout lacks; an absent slice counts nowhere."""
    rows = [([0, 4],), ([0, 3],), ([1, -1],), ([2, 0, 0],), (None,)]
    found = counts.code_multiplicities(spark.createDataFrame(rows, "bill_codes ARRAY<SMALLINT>"), {("bill", 1): 4, ("bill", 2): 4}, ("bill",))
    listed = sorted((row.level, row.inside, row.slices, row.codes) for row in found.collect())
    assert listed == [(1, True, 1, 2), (1, True, 2, 1), (2, False, 1, 2), (2, True, 1, 2), (3, False, 1, 1)]

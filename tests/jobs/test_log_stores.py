"""Which roots admit several drivers, and what is said of the others."""

import pytest

from jobs.errors import Infrastructure
from jobs.log_stores import COORDINATED, log_store, require_many_drivers


@pytest.mark.parametrize("root", ["/data/lake", "file:///data/lake", "hdfs://n/lake", "abfss://c@a.dfs.core.windows.net/lake", "gs://b/lake"])
def test_stores_that_exclude_each_other_admit_many(root: str) -> None:
    """Nothing has to be set."""
    require_many_drivers("backfill", root, {})


@pytest.mark.parametrize("root", ["s3://b/lake", "s3a://b/lake", "s3n://b/lake", "oss://b/lake"])
def test_others_are_refused_with_the_setting_that_helps(root: str) -> None:
    """S3's default, and a store that nothing is known of."""
    scheme = root.partition(":")[0]
    with pytest.raises(Infrastructure, match=f"spark.delta.logStore.{scheme}.impl={COORDINATED}.*--only-writer"):
        require_many_drivers("backfill", root, {})
    require_many_drivers("backfill", root, {f"spark.delta.logStore.{scheme}.impl": COORDINATED})


def test_a_single_driver_store_that_was_chosen_is_said() -> None:
    """A setting for another scheme counts for nothing."""
    conf = {"spark.delta.logStore.s3a.impl": "io.delta.storage.S3SingleDriverLogStore", "spark.delta.logStore.s3.impl": COORDINATED}
    assert "admits one driver" in log_store("s3a://b/lake", conf).found
    assert not log_store("s3a://b/lake", conf).many_drivers
    assert log_store("s3a://b/lake", {"spark.delta.logStore.s3a.impl": "com.site.OwnLogStore"}).many_drivers

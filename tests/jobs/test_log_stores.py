"""Which roots admit several drivers, and what is said of the others."""

import pytest
from pyspark.sql import SparkSession

from jobs import check_machine
from jobs.cli import call
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


def test_doctor_and_backfill_refuse_a_store_for_one_driver(spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit 30 with the remedy, before anything is read there; the right setting is no fault."""
    monkeypatch.setattr("jobs.session.build_session", lambda master=None, conf=None: spark)
    monkeypatch.setattr(type(spark), "stop", lambda self: None)
    assert call(["backfill", "--root", "s3a://no-such-bucket/lake", "--from", "2024-01-01", "--to", "2024-01-02"]) == 30
    assert "Delta's default for S3 admits one driver" in capfd.readouterr().err
    for found in check_machine.run("s3a://b/lake"), check_machine.run("s3a://b/lake", {"spark.delta.logStore.s3a.impl": COORDINATED}):
        (commits,) = (check for check in found if check.name == "commits")
        assert commits.ok == (COORDINATED in commits.found)
        assert commits.ok or COORDINATED in commits.remedy
    assert all(check.name != "commits" for check in check_machine.run())
    assert call(["doctor", "--root", "s3a://b/lake"]) == 30
    assert "WRONG" in capfd.readouterr().out

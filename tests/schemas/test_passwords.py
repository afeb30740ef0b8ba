"""Secrets in settings and URIs: found, and left out of texts."""

import pytest

from schemas.passwords import has_password, secrets_in, without_secrets


@pytest.mark.parametrize("uri", ["s3a://me:pw@bucket/x", "jdbc:postgresql://me:p@w@host/db", "s3a:/me:pw@bucket/x", "ftp://:pw@host"])
def test_a_password_in_a_uri_is_found_and_hidden(uri: str) -> None:
    """Also where a path has made one slash of two."""
    assert has_password(uri)
    hidden = without_secrets(f"can't read {uri} today")
    assert "pw" not in hidden
    assert "*****@" in hidden
    assert hidden.endswith(" today")


@pytest.mark.parametrize("uri", ["abfss://container@account.dfs.core.windows.net/x", "hdfs://host:8020/a@b", "/data/me:pw@x", "s3a://bucket/x"])
def test_a_user_a_port_or_an_at_sign_alone_is_no_password(uri: str) -> None:
    """They are right and stay as they are."""
    assert not has_password(uri)
    assert without_secrets(uri) == uri


@pytest.mark.parametrize(
    "key", ["spark.hadoop.fs.s3a.secret.key", "fs.azure.account.key.x", "a.PASSWORD", "x.token", "spark.hadoop.fs.s3a.access.key", "google.credentials"]
)
def test_secret_settings_are_known_by_their_names(key: str) -> None:
    """As an argument of its own or behind --conf=."""
    assert secrets_in([f"{key}=hush!", f"--conf={key}=hush!!", "spark.executor.memory=2g", "--tokenizer-version=2024"]) == ["hush!", "hush!!"]


def test_the_longest_secret_goes_first_and_short_ones_stay() -> None:
    """One that is part of another leaves no rest; a value such as 1 would garble every message."""
    assert without_secrets("key hush-hush and hush, 1 of 10", ["hush", "hush-hush", "1", ""]) == "key ***** and *****, 1 of 10"

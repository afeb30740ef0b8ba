"""Values from outside, hostile ones too: they pass as they are or are refused, before SQL or the file system sees them."""

import os
import shutil
import stat
import string
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import Row, SparkSession
from rich.console import Console

from jobs import cli, encode_users, quality, train_tokenizer, validate_sources
from jobs.cli_options import checked_place, console, days_of
from jobs.cli_options import settings as conf_settings
from jobs.context import Context
from jobs.delta_tables import Lakehouse, Where
from jobs.errors import BadInput, Infrastructure
from jobs.import_stackexchange import run as import_stackexchange
from jobs.label_input import read_labels
from jobs.raw_input import raw_rows
from jobs.show_quarantine import Quarantined, render
from schemas import keys
from schemas.catalog import Input
from schemas.catalog_files import load_catalog
from schemas.errors import CatalogError, IdentifierError
from schemas.keys import Days
from u2qt_model import presets

REPOSITORY = Path(__file__).resolve().parents[1]
HARMLESS = set(string.ascii_letters + string.digits + "._-")
DAY = Days(date(2024, 1, 3), date(2024, 1, 3))
SECRET = "s3cr3t-Kanarienvogel"  # nobody's; searched for in all that is written

LOOKS = ("\u0430", "\uff41", "a\u0301", "\u202e", "\u200f", "\u200b", "\u0660", "\uff0e", "\u2024", "\uff0f", "\u2215", "\u02bc", "\ud800", "\ufeff")
SIGNS = ("'", '"', "`", "/", "\\", "..", "../", "\0", "\n", "\r", "\x1b", ";", "--", "/*", "#", "$", "{", "%2e", " ", "")
PLAIN = ("bill", "v1", "2024-01-03", "6h", "2024-01-03T06:00:00+08:00", "a" * 63, "a" * 64, "a" * 5000, "0", "-", "_", ".")
# Anything, and pieces of right forms with one wrong sign put into them.
HOSTILE = st.one_of(st.text(), st.lists(st.sampled_from(LOOKS + SIGNS + PLAIN), max_size=5).map("".join))


@given(HOSTILE)
def test_a_name_is_harmless_or_refused(value: str) -> None:
    """It comes back as it was, of lower-case ASCII, digits and underscores; else the documented error, in ASCII and short."""
    accepted = _accepted(keys.name, value)
    assert accepted is None or (accepted == value and set(value) <= set(string.ascii_lowercase + string.digits + "_") and 1 <= len(value) <= 63)


@given(HOSTILE)
def test_a_version_is_harmless_or_refused(value: str) -> None:
    """No quote, backtick, slash, dot-dot, control or non-ASCII character; never hidden, never an option."""
    accepted = _accepted(keys.version, value)
    assert accepted is None or (accepted == value and set(value) <= HARMLESS and ".." not in value and value[0].isalnum() and len(value) <= 63)


@given(HOSTILE)
def test_a_day_is_what_was_written_or_refused(value: str) -> None:
    """Written back it is the same text."""
    accepted = _accepted(keys.day, value)
    assert accepted is None or (str(accepted) == value and keys.FIRST_DAY <= accepted <= keys.LAST_DAY)


@given(HOSTILE)
def test_a_moment_is_what_was_written_or_refused(value: str) -> None:
    """ASCII, with an offset, and with nothing else in the place of the T."""
    accepted = _accepted(keys.moment, value)
    assert accepted is None or (accepted.utcoffset() is not None and set(value) <= set(string.digits + "-:T .+Z"))


@given(HOSTILE)
def test_a_duration_is_what_was_written_or_refused(value: str) -> None:
    """A number and its unit, nothing else."""
    accepted = _accepted(keys.duration, value)
    assert accepted is None or (value[:-1].isdecimal() and value.isascii() and value[-1] in "smhd")


@given(st.datetimes(min_value=datetime(1970, 1, 3), max_value=datetime(2199, 12, 29)), st.integers(min_value=-14 * 60, max_value=14 * 60))
def test_every_moment_of_the_documented_form_passes(local: datetime, minutes: int) -> None:
    """The check refuses no right value."""
    sign = "-" if minutes < 0 else "+"
    text = f"{local.isoformat()}{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    assert keys.moment(text) == datetime.fromisoformat(text)


@pytest.mark.parametrize("value", ["2024-01-03'06:00:00+08:00", "2024-W01-3T06:00:00+08:00", "2024-01-03T06:00:00", "2024-01-03T06:00:00+08:00\n"])
def test_moments_that_python_reads_and_nobody_documents_are_refused(value: str) -> None:
    """Any character for the T, week dates, no offset, a trailing newline."""
    with pytest.raises(IdentifierError, match="ISO 8601"):
        keys.moment(value)


def _accepted(check: Callable[[str], object], value: str) -> object:
    try:
        return check(value)
    except IdentifierError as error:
        refused = str(error)
    assert refused.isascii()
    assert len(refused) < 1000
    return None


@given(HOSTILE)
def test_an_input_path_stays_or_is_refused(value: str) -> None:
    """No way up, no sign that Hadoop or Spark would expand, nothing unprintable."""
    text = f"raw/{value}/{{ds}}"
    try:
        path = Input(format="csv", path=text).path
    except ValueError:
        return
    assert path == text
    assert ".." not in path.split("/")
    assert not set(path.replace("{ds}", "")) & set("#*?[]{}\\\0\n\r\x1b\u202e")


@given(HOSTILE)
def test_a_place_on_the_command_line_is_a_path_or_refused(value: str) -> None:
    """What passes can be given to the system: no control characters, no endless name."""
    try:
        place, refused = checked_place("--root", value), ""
    except BadInput as error:
        place, refused = None, str(error)
    assert place == value if place is not None else refused.isprintable()
    assert place is None or Path(place).exists() in (True, False)


@given(HOSTILE)
def test_a_predicate_is_of_checked_values_or_not_made(value: str) -> None:
    """`Where` is the only SQL that is put together from values."""
    try:
        text = Where(days=DAY, equals=(("tokenizer_version", value),)).sql()
    except IdentifierError:
        return
    assert text.count("'") == 6
    assert text.isascii()


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packaged catalog."""
    root = tmp_path_factory.mktemp("catalog")
    shutil.copytree(REPOSITORY / "schemas" / "sources", root / "sources")
    shutil.copy(REPOSITORY / "schemas" / "catalog.yaml", root / "catalog.yaml")
    shutil.copytree(REPOSITORY / "expectations" / "sources", root / "expectations" / "sources")
    return root


FIELDS = (("name",), ("columns", 0, "name"), ("columns", 0, "from"), ("input", "path"), ("event_time", "zone"), ("event_time", "format"), ("template",))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=HOSTILE, field=st.sampled_from(FIELDS))
def test_a_catalog_is_loaded_or_refused_with_its_problems(declared: Path, value: str, field: tuple[str | int, ...]) -> None:
    """Any text in any field of a declaration: CatalogError or a catalog, never another error."""
    file = declared / "sources" / "bill.yaml"
    original = file.read_text(encoding="utf-8")
    content = yaml.safe_load(original)
    part = content
    for step in field[:-1]:
        part = part[step]
    part[field[-1]] = value
    try:
        file.write_text(yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "replace").decode(), encoding="utf-8")
        catalog = load_catalog(declared)
    except CatalogError:
        return
    finally:
        file.write_text(original, encoding="utf-8")
    for source in catalog.sources:
        assert set(source.name + "".join(c.name for c in source.columns)) <= HARMLESS
        assert ".." not in source.input.path


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), HOSTILE.map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_as_a_catalog_are_refused_with_their_problems(declared: Path, content: bytes) -> None:
    """YAML's own readers raise many kinds of errors; one comes out."""
    header = declared / "catalog.yaml"
    original = header.read_bytes()
    header.write_bytes(content)
    try:
        with pytest.raises(CatalogError):
            load_catalog(declared)
    finally:
        header.write_bytes(original)


BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24))


@pytest.mark.parametrize(
    "content",
    ["[" * 20_000, BOMB, "name: 2024-13-45", f"name: {'9' * 5000}", "!!python/object/apply:os.system ['touch /tmp/u2qt-was-here']", "? [a]\n: b", "name: \0"],
    ids=["deep", "bomb", "no date", "huge number", "python object", "list as key", "NUL"],
)
def test_yaml_that_harms_parsers_is_refused(declared: Path, content: str) -> None:
    """Nothing is built from tags, and no depth, size or odd value ends in another error."""
    header = declared / "catalog.yaml"
    original = header.read_bytes()
    header.write_text(content, encoding="utf-8")
    try:
        with pytest.raises(CatalogError):
            load_catalog(declared)
    finally:
        header.write_bytes(original)
    assert not Path("/tmp/u2qt-was-here").exists()


@pytest.mark.parametrize("option", ["path", "basePath", "mode", "columnNameOfCorruptRecord", "fs.s3a.secret.key", "fs.azure.account.key"])
def test_a_reader_s_option_can_t_leave_the_declared_path_nor_hold_a_secret(option: str) -> None:
    """Nor drop torn lines in silence."""
    with pytest.raises(ValueError, match=r"no option|U2QT's own"):
        Input(format="csv", path="x/{ds}", options={option: "x"})


@pytest.mark.parametrize("place", ["day", "file"])
def test_a_link_out_of_the_input_root_is_refused(published: Context, simulated: Path, tmp_path: Path, place: str) -> None:
    """A day's folder, or one file in it, that leads to other files of this machine; links inside the root are links."""
    raw, elsewhere = tmp_path / "raw", tmp_path / "elsewhere"
    shutil.copytree(simulated / "raw", raw)
    day = raw / "bill" / f"delivered_ds={DAY.first}"
    shutil.copytree(day, elsewhere)
    source = published.catalog.source("bill")
    if place == "day":
        shutil.rmtree(day)
        day.symlink_to(elsewhere)
    else:
        (day / "stolen.parquet").symlink_to(next(elsewhere.glob("*.parquet")))
    with pytest.raises(BadInput, match=r"leads to .*elsewhere.*expected files inside"):
        raw_rows(published.spark, source, str(raw), DAY)
    shutil.move(elsewhere, raw / "bill" / "moved")
    if place == "day":
        day.unlink()
        day.symlink_to(raw / "bill" / "moved")
        assert raw_rows(published.spark, source, str(raw), DAY).count() > 0


@pytest.mark.parametrize("version", ["../v1", "/tmp/v1", "v1/../../x", "v1\n", "v\u0430", ".hidden", "v1\0", "a" * 64])
def test_a_crafted_version_writes_nowhere(ready: Context, version: str) -> None:
    """It names a folder of checkpoints, so it is checked before anything is trained."""
    with pytest.raises(IdentifierError):
        train_tokenizer.run(ready, DAY, version, presets.tiny())
    assert not (Path(ready.lake.root) / "checkpoints").exists()
    with pytest.raises(IdentifierError):
        encode_users.run(ready, DAY, version)


@pytest.mark.parametrize("labels", ["../labels", "user_tokens; DROP TABLE runs", "`runs`", "runs\0", "file:///etc/passwd", "\u0440uns"])
def test_labels_are_a_table_a_file_or_refused(published: Context, labels: str) -> None:
    """Only checked names reach the catalog; the rest is a path in which nothing readable lies."""
    with pytest.raises(BadInput, match="can't be read"):
        read_labels(published, labels, None)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT TRANSFORM(user_id) USING 'touch /tmp/u2qt-was-here' FROM {batch}",
        "DROP TABLE runs",
        "SELECT 1 WHERE 1 IN (SELECT TRANSFORM(user_id) USING 'cat' FROM {batch})",
        "INSERT OVERWRITE DIRECTORY '/tmp/u2qt-was-here' USING csv SELECT * FROM {batch}",
        "nonsense",
    ],
)
def test_a_suite_s_sql_only_reads(published: Context, query: str) -> None:
    """A suite comes with a catalog: it may count rows, not start programs."""
    text = f'{{"expectations": [{{"type": "unexpected_rows_expectation", "kwargs": {{"unexpected_rows_query": "{query}"}}}}]}}'
    with pytest.raises(BadInput, match="found SQL that"):
        quality.evaluate(published.lake.read("runs"), quality.load_suite(text, "suite.json"))
    assert not Path("/tmp/u2qt-was-here").exists()


CANARY = "only-this-file-says-so"
ROWS = '<posts><row Id="1" PostTypeId="1" OwnerUserId="2"/></posts>'
BILLION = "<!DOCTYPE posts [<!ENTITY a 'ha'>" + "".join(f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(9)) + "]>"


@pytest.mark.parametrize(
    ("document", "encoding"),
    [
        (f"<!DOCTYPE posts>{ROWS}", "utf-8"),
        ("<!DOCTYPE posts [<!ENTITY x SYSTEM 'file://CANARY'>]><posts><row Id='1' PostTypeId='1' Text='t'>&x;</row></posts>", "utf-8"),
        ("<!DOCTYPE posts [<!ENTITY % x SYSTEM 'file://CANARY'> %x;]>" + ROWS, "utf-8"),
        (f"{BILLION}<posts><row Id='1' PostTypeId='1' Text='&j;'/></posts>", "utf-8"),
        (f"{BILLION}<posts><row Id='1' PostTypeId='1' Text='&j;'/></posts>", "utf-16"),
        ("<posts><row Id='1' PostTypeId='1' Text='&x;'/></posts>", "utf-8"),
        (f"<posts><row Id='1' Text='{'x' * (40 << 20)}", "utf-8"),
    ],
    ids=["doctype", "external entity", "parameter entity", "billion laughs", "billion laughs in UTF-16", "entity of nobody", "endless row"],
)
def test_a_dump_with_entities_is_refused_in_little_memory(tmp_path: Path, document: str, encoding: str) -> None:
    """Exit 20 with the file's name; what a file:// entity points to is not read into anything; the process stays small."""
    (tmp_path / "canary").write_text(CANARY)
    dump, out = tmp_path / "dump", tmp_path / "out"
    dump.mkdir()
    for name in ("PostHistory", "Comments", "Badges", "Users"):
        (dump / f"{name}.xml").write_text(f"<{name.lower()}></{name.lower()}>")
    (dump / "Posts.xml").write_text(document.replace("CANARY", str(tmp_path / "canary")), encoding=encoding)
    program = (
        "import re, sys; from jobs.cli import call; code = call(sys.argv[1:]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); raise SystemExit(code)"
    )
    command = [sys.executable, "-c", program, "import", "stackexchange", str(dump), "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 20, ended.stderr
    assert str(dump / "Posts.xml") in ended.stderr
    assert "Traceback" not in ended.stderr
    assert CANARY not in ended.stdout + ended.stderr
    assert int(ended.stdout.split()[-1]) < 400 << 10  # KiB, with pyarrow's libraries
    assert not out.exists()


@pytest.fixture(scope="module")
def private(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A lakehouse and a report made by a real process of umask 077 and with a secret among its settings; its last command fails."""
    root = tmp_path_factory.mktemp("private")
    program = "import sys; from jobs.cli import call; print('codes', [call(a.split('|')) for a in sys.argv[1:]])"
    common = f"--root|{root / 'lake'}|--conf|spark.hadoop.fs.s3a.secret.key={SECRET}|--conf|spark.sql.shuffle.partitions=2"
    right, wrong = f"{common}|--input|{simulated / 'raw'}", f"{common}|--input|/nowhere/{SECRET}"
    day = f"--ds|{DAY.first}"
    commands = (f"init|{right}", f"validate|{day}|{right}", f"report|{day}|--out|{root / 'out' / 'page.html'}|{right}", f"validate|{day}|--force|{wrong}")
    ended = subprocess.run([sys.executable, "-c", program, *commands], capture_output=True, text=True, check=False, umask=0o077, timeout=500)
    assert "codes [0, 0, 0, 20]" in ended.stdout, ended.stdout + ended.stderr[-3000:]
    return root, ended


def test_files_follow_the_umask(private: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Nobody else reads the lakehouse, its locks or a report; Java's files neither, though Hadoop has a mask of its own."""
    made = [path for folder in ("lake", "out") for path in (private[0] / folder, *(private[0] / folder).rglob("*"))]
    assert len(made) > 100
    assert [str(path) for path in made if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)] == []


def test_with_the_usual_umask_nobody_else_writes(published: Context, simulated: Path) -> None:
    """022, as the tests themselves have it."""
    made = [Path(published.lake.root), *Path(published.lake.root).rglob("*"), *simulated.rglob("*")]
    assert [str(path) for path in made if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)] == []


def test_no_secret_reaches_what_is_written_or_said(private: tuple[Path, subprocess.CompletedProcess[str]], spark: SparkSession) -> None:
    """The last command's error has the secret in its text: stars in the ledger and on the terminal, and it is in no file."""
    root, ended = private
    assert "nothing delivered at /nowhere/*****/" in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
    details = [row.detail for row in Lakehouse(spark, str(root / "lake")).read("runs").where("status = 'refused'").collect()]
    assert ["/nowhere/*****/" in detail for detail in details] == [True]
    assert _files_with(root, SECRET) == []


def test_a_checkpoint_follows_the_umask(published: Context, tmp_path: Path) -> None:
    """022 leaves it readable, as the tests' own mask does; 077 to its owner alone. Nobody else may ever write."""
    from u2qt_model import load, save

    tokenizer = load(published.lake.read("tokenizers").collect()[0].checkpoint)
    for mask, forbidden in ((0o022, 0o022), (0o077, 0o077)):
        before = os.umask(mask)
        try:
            folder = save(tokenizer, tmp_path / f"{mask:o}")
        finally:
            os.umask(before)
        for path in (folder, *folder.iterdir()):
            assert path.stat().st_mode & forbidden == 0, path
        assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


def _files_with(root: Path, text: str) -> list[str]:
    return [str(file) for file in root.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def test_the_search_for_secrets_finds_one(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    (tmp_path / "x.json").write_text(f"... {SECRET} ...")
    assert _files_with(tmp_path, SECRET) == [str(tmp_path / "x.json")]


def test_what_an_owner_writes_can_t_steer_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery's name is raw data: neither markup that rich would refuse, nor escape sequences."""
    counts = {"rows_in": 1, "clean": 0, "quarantined": 1, "duplicates": 0, "forgotten": 0}
    deliveries = tuple(Row(delivery_id=name, gate="passed", **counts) for name in ("[/bold]", "x\x1b[31m"))
    found = Quarantined(source="bill", deliveries=deliveries, reasons=(("null:user_id", 1),), rows=())
    for table in render((found,)):
        Console(highlight=console._highlight, markup=console._markup, width=200).print(table)
    said = capsys.readouterr().out
    assert "[/bold]" in said
    assert r"x\x1b[31m" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("option", ["--root", "--input", "--catalog"])
def test_a_place_with_a_password_is_refused_without_saying_it(capfd: pytest.CaptureFixture[str], option: str) -> None:
    """Before a session starts: places are recorded and logged."""
    assert cli.call(["validate", "--ds", "2024-01-03", option, f"s3a://user:{SECRET}@bucket/lake"]) == 20
    said = capfd.readouterr().err
    assert "found a password in it" in said
    assert SECRET not in said


def test_a_user_in_a_uri_is_no_password() -> None:
    """Azure's abfss:// names its container there."""
    assert checked_place("--root", "abfss://container@account.dfs.core.windows.net/lake")


@pytest.mark.parametrize("wrong", [f"spark.hadoop.fs.s3a.secret.key:{SECRET}", f"spark.secret {SECRET}", f"spark.x;y={SECRET}"])
def test_a_mistyped_setting_is_refused_without_saying_its_value(wrong: str) -> None:
    """What follows a wrong character may be the secret."""
    with pytest.raises(BadInput) as caught:
        conf_settings([wrong])
    assert SECRET not in str(caught.value)


def test_a_bug_s_traceback_holds_no_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 shows all of an error but secrets."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError(f"with {SECRET}")

    monkeypatch.setattr("jobs.cli_options.load_catalog", broken)
    monkeypatch.setattr(sys, "argv", ["u2qt", "validate", "--ds", "2024-01-03", "--conf", f"spark.hadoop.x.password={SECRET}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert (ended.value.code, "ZeroDivisionError: with *****" in said, SECRET in said) == (1, True, False)


def test_a_range_of_days_has_an_end() -> None:
    """Each day has a lock: a range of three million would take all of a machine's files."""
    with pytest.raises(BadInput, match="at most 3,660"):
        days_of(None, "1970-01-01", "2199-12-31")


@pytest.mark.parametrize("value", ["0001-01-01", "9999-12-31"])
def test_days_that_offsets_overflow_are_refused(value: str) -> None:
    """The end of 9999-12-31 in another zone is in no calendar of Python's."""
    with pytest.raises(IdentifierError, match="1970-01-01 to 2199-12-31"):
        keys.day(value)
    assert keys.day("2199-12-31") + timedelta(days=1)


def test_a_row_of_the_ledger_that_can_t_be_written_hides_no_error(writable: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full for the row too: what is raised is what stopped the stage."""

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device", "/lake/runs")

    lake = Lakehouse(writable.spark, writable.lake.root)
    monkeypatch.setattr(Lakehouse, "append", full)
    with pytest.raises(BadInput, match="nothing delivered"):
        validate_sources.run(replace(writable, lake=lake, input_root="/nowhere"), DAY, force=True)


def test_a_finished_stage_without_its_row_is_no_success(writable: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done and the ledger doesn't know: exit 30, and a repetition does it again."""

    def full(self: Lakehouse, table: str, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device", f"/lake/{table}")

    monkeypatch.setattr(Lakehouse, "append", full)
    with pytest.raises(Infrastructure, match="disk full at /lake/runs"):
        validate_sources.run(writable, DAY, force=True)


def test_an_import_of_a_good_dump_still_works(tmp_path: Path) -> None:
    """The refusals above are not of everything."""
    dump = tmp_path / "dump"
    dump.mkdir()
    for name in ("Posts", "PostHistory", "Comments", "Badges"):
        (dump / f"{name}.xml").write_text(f"<{name.lower()}></{name.lower()}>")
    (dump / "Users.xml").write_text('<users><row Id="5" CreationDate="2014-01-21T20:26:05.383"/></users>')
    assert import_stackexchange(dump, tmp_path / "out").rows["profile"] == 1

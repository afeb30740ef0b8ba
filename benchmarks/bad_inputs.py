"""Bad inputs through the real command line: how many are refused with the right exit code, in a few lines, without a traceback.

Catalogs, raw files, dumps, checkpoints, labels, names, days, paths and settings, on a lakehouse of 60 simulated users. All in
one process and one Spark session; what a command prints is held against the exit code that docs/operations.md promises.
"""

import argparse
import contextlib
import io
import json
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import SparkSession

from benchmarks.lakes import FIRST, prepared
from jobs import cli, session

REPOSITORY = Path(__file__).resolve().parents[1]
DAY = ("--ds", FIRST)
LINES = 15  # a refusal has at most so many
Edit = Callable[[str], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bad:
    """One bad input: of which kind, what is wrong with it, the command that is given it, the exit codes that are right."""

    kind: str
    what: str
    arguments: tuple[str, ...]
    codes: tuple[int, ...] = (20,)


def catalogs(work: Path) -> Iterator[Bad]:
    bill, header, suite = "sources/bill.yaml", "catalog.yaml", "expectations/sources/bill.json"
    edits: tuple[tuple[str, str, Edit], ...] = (
        ("no YAML", bill, lambda _: "name: [bill"),
        ("a key twice", bill, lambda text: text + "\nkind: events\n"),
        ("an unknown key", bill, lambda text: text + "\nkinds: events\n"),
        ("20,000 brackets", header, lambda _: "[" * 20_000),
        ("a YAML bomb", header, lambda _: "a: [&b0 [x]" + "".join(f", &b{n + 1} [*b{n}, *b{n}]" for n in range(40)) + "]"),
        ("a Python object", header, lambda _: "!!python/object/apply:os.system ['true']"),
        ("an impossible date", header, lambda text: text.replace("name:", "name: 2024-13-45 #", 1)),
        ("a number of 5,000 digits", header, lambda text: text.replace("name:", f"name: {'9' * 5000} #", 1)),
        ("a NUL", header, lambda text: text + "\0"),
        ("a source called ../x", header, lambda text: text.replace("[bill", "['../bill'", 1)),
        ("a source with a Cyrillic letter", bill, lambda text: text.replace("name: bill", "name: b\u0456ll", 1)),
        ("a path with ..", bill, lambda text: text.replace("{ds}", "../../{ds}", 1)),
        ("a path with a wildcard", bill, lambda text: text.replace("{ds}", "*{ds}", 1)),
        (
            "a path with a password",
            bill,
            lambda text: text.replace('path: "', 'path: "s3a://me:secret@', 1),
        ),
        ("a suite that is no JSON", suite, lambda _: "{"),
        ("a suite 50,000 levels deep", suite, lambda _: "[" * 50_000),
        ("an empty suite", suite, lambda _: '{"expectations": []}'),
        ("a misspelt expectation", suite, lambda _: '{"expectations": [{"type": "expect_nothing_at_all", "kwargs": {}}]}'),
        ("an unknown time zone", header, lambda text: text.replace("Asia/Shanghai", "Asia/Atlantis", 1)),
    )
    for n, (what, file, change) in enumerate(edits):
        folder = work / "catalogs" / str(n)
        shutil.copytree(REPOSITORY / "schemas" / "sources", folder / "sources")
        shutil.copy(REPOSITORY / "schemas" / "catalog.yaml", folder / "catalog.yaml")
        shutil.copytree(REPOSITORY / "expectations" / "sources", folder / "expectations" / "sources")
        text = (folder / file).read_text(encoding="utf-8")
        if change(text) == text:
            raise AssertionError(f"{what}: the edit changes nothing in {file}")
        (folder / file).write_text(change(text), encoding="utf-8")
        yield Bad(kind="catalog", what=what, arguments=("catalog", "check", str(folder)))
    yield Bad(kind="catalog", what="no folder", arguments=("catalog", "check", str(work / "nothing")))
    yield Bad(kind="catalog", what="a folder's name of 5,000 characters", arguments=("catalog", "check", "x" * 5000))


def command_lines(lake: tuple[str, ...]) -> Iterator[Bad]:
    for value in ("2024-02-30", "2024-1-1", "9999-12-31", "\u0662\u0660\u0662\u0664-\u0660\u0661-\u0660\u0661", f"{FIRST}\n", f"{FIRST}' OR '1'='1"):
        yield Bad(kind="day", what=ascii(value), arguments=("build", "--ds", value, *lake))
    yield Bad(kind="day", what="backwards", arguments=("build", "--from", "2024-01-02", "--to", FIRST, *lake))
    yield Bad(kind="day", what="230 years", arguments=("build", "--from", "1970-01-01", "--to", "2199-12-31", *lake))
    yield Bad(kind="day", what="none", arguments=("build", *lake))
    for value in ("noon", f"{FIRST}'06:00:00+08:00", f"{FIRST}T06:00:00", "2024-W01-1T00:00:00+00:00"):
        yield Bad(kind="moment", what=value, arguments=("build", *DAY, "--cutoff", value, *lake))
    for value in ("v'1", "v`1", "../v1", "/etc/v1", "v\u0430", "v1\n", "v1 OR 1=1", "x" * 5000, "", "nobody"):
        yield Bad(kind="version", what=ascii(value)[:40], arguments=("encode", *DAY, "--tokenizer-version", value, *lake))
    for value in ("a/b", "run;DROP", "r\u202eun"):
        yield Bad(kind="run id", what=ascii(value), arguments=("status", *DAY, "--run-id", value, *lake))
    for root in ("lake#1", "lake`1", "../lake", "x" * 5000, "s3a://me:secret@bucket/lake", "lake\u202e", "/dev/null"):
        yield Bad(kind="place", what=ascii(root)[:40], arguments=("status", *DAY, "--root", root))
    for setting in ("spark.x", "hive.x=1", "spark.x;y=1"):
        yield Bad(kind="setting", what=setting, arguments=("status", *DAY, "--conf", setting, *lake))
    for setting in ("nothing.at_all=1", "quantizer.beam=many", "quantizer.beam=-1", "beam"):
        yield Bad(kind="setting", what=f"--set {setting}", arguments=(*_train("x"), "--set", setting, *lake))
    for statement in ("DROP TABLE runs", "SELECT nothing FROM nowhere", "SELECT 1; SELECT 2", "SELECT TRANSFORM(1) USING 'cat'", "SELECT 1/0", ""):
        yield Bad(kind="sql", what=statement, arguments=("sql", statement, *lake))
    yield Bad(kind="source", what="../x", arguments=("quarantine", "show", "--delivered-ds", FIRST, "--source", "../x", *lake))
    yield Bad(kind="delivery", what="' OR 1=1", arguments=("quarantine", "replay", "--delivery", "' OR 1=1", *lake))
    yield Bad(kind="model", what="pickled text model", arguments=(*_train("x"), "--text-model", "/nowhere", *lake))


def _train(version: str) -> tuple[str, ...]:
    return ("train", "--from", FIRST, "--to", FIRST, "--tokenizer-version", version, "--size", "tiny")


def raw_files(work: Path, raw: Path, root: Path) -> Iterator[Bad]:
    damages: tuple[tuple[str, Callable[[Path], object], tuple[int, ...]], ...] = (
        ("nothing delivered", shutil.rmtree, (20,)),
        ("half a file", _halve, (20,)),
        ("text in the place of Parquet", lambda day: _replace(day, b"these are no parquet bytes"), (20,)),
        ("an empty file", lambda day: _replace(day, b""), (10,)),
        ("a link out of the input root", _link_out, (20,)),
    )
    for n, (what, damage, codes) in enumerate(damages):
        copy = work / "raw" / str(n)
        shutil.copytree(raw, copy)
        damage(copy / "bill" / f"delivered_ds={FIRST}")
        yield Bad(kind="raw files", what=what, arguments=("validate", *DAY, "--force", "--root", str(root), "--input", str(copy)), codes=codes)


def _halve(day: Path) -> None:
    _replace(day, next(day.glob("*.parquet")).read_bytes()[:500])


def _replace(day: Path, content: bytes) -> None:
    shutil.rmtree(day)
    day.mkdir()
    (day / "part-0.parquet").write_bytes(content)


def _link_out(day: Path) -> None:
    outside = day.parents[2] / f"outside-{day.parents[1].name}"
    shutil.move(day, outside)
    day.symlink_to(outside)


def dumps(work: Path) -> Iterator[Bad]:
    bomb = "<!DOCTYPE posts [<!ENTITY a 'ha'>" + "".join(f"<!ENTITY b{n} '{(f'&b{n - 1};' if n else '&a;') * 10}'>" for n in range(9)) + "]>"
    documents = {
        "a document type": "<!DOCTYPE posts><posts></posts>",
        "an external entity": "<!DOCTYPE posts [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><posts><row Id='1'>&x;</row></posts>",
        "a billion laughs": f"{bomb}<posts><row Id='1' PostTypeId='1' Text='&b8;'/></posts>",
        "half a file": "<posts><row Id='1'",
        "another root": "<html></html>",
        "an Id that is no number": "<posts><row Id='1; DROP' PostTypeId='1'/></posts>",
        "no XML": "\x7fELF",
    }
    for n, (what, document) in enumerate(documents.items()):
        folder = work / "dumps" / str(n)
        folder.mkdir(parents=True)
        for name in ("PostHistory", "Comments", "Badges", "Users"):
            (folder / f"{name}.xml").write_text(f"<{name.lower()}></{name.lower()}>")
        (folder / "Posts.xml").write_text(document)
        yield Bad(kind="dump", what=what, arguments=("import", "stackexchange", str(folder), "--out", str(work / "imported" / str(n))))


def checkpoints(work: Path, good: Path, lake: tuple[str, ...]) -> Iterator[Bad]:
    damages: dict[str, Callable[[Path], object]] = {
        "one bit of the weights": lambda folder: _flip(folder / "model.safetensors"),
        "no weights": lambda folder: (folder / "model.safetensors").unlink(),
        "no layout": lambda folder: (folder / "layout.json").unlink(),
        "a layout that is a list": lambda folder: (folder / "layout.json").write_text("[]"),
        "a layout 50,000 levels deep": lambda folder: (folder / "layout.json").write_text("[" * 50_000),
        "a changed configuration": lambda folder: (folder / "config.json").write_text(json.dumps({"format": 1})),
        "nothing at all": shutil.rmtree,
    }
    for n, (what, damage) in enumerate(damages.items()):
        folder = work / "checkpoints" / str(n)
        shutil.copytree(good, folder)
        damage(folder)
        arguments = ("tokenizer", "register", f"bad{n}", str(folder), "--trained-from", FIRST, "--trained-through", FIRST, *lake)
        yield Bad(kind="checkpoint", what=what, arguments=arguments)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def labels(work: Path, lake: tuple[str, ...]) -> Iterator[Bad]:
    texts = {
        "no such column": "user_id,when\nu1,2024-01-03T06:00:00+08:00\n",
        "a time that is none": "user_id,at\nu1,yesterday\n",
        "torn rows": "user_id,at\nu1,2024-01-03T06:00:00+08:00,x,y\n",
        "nothing": "",
    }
    work.joinpath("labels").mkdir()
    places = {}
    for n, (what, text) in enumerate(texts.items()):
        file = work / "labels" / f"{n}.csv"
        file.write_text(text)
        places[what] = str(file)
    places |= {"no such table": "nowhere", "SQL": "runs; DROP TABLE runs", "no Parquet": str(REPOSITORY / "setup.cfg")}
    for n, (what, place) in enumerate(places.items()):
        arguments = ("join", "--labels", place, "--at", "at", "--out", str(work / "joined" / str(n)), *lake)
        yield Bad(kind="labels", what=what, arguments=arguments)


def tried(bad: Bad) -> str | None:
    """What is wrong with the answer, or None where the input was refused as it should be."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.call(list(bad.arguments))
    except BaseException as error:  # a bug: the command line would show it whole and exit 1
        return f"traceback: {traceback.format_exception_only(error)[-1].strip()[:200]}"
    text = said.getvalue()
    if code not in bad.codes:
        return f"exit {code}, expected {' or '.join(map(str, bad.codes))}: {text.strip()[:200]}"
    if "Traceback" in text or "secret" in text or len(text.splitlines()) > LINES:
        return f"{len(text.splitlines())} lines on standard error: {text.strip()[:200]}"
    return None if text.strip() else "no message"


def _said(bad: Bad, fault: str | None) -> str | None:
    """`fault`, shown at once: the list takes minutes."""
    if fault is not None:
        print(f"NOT REFUSED: {bad.kind}, {bad.what}: {fault}", flush=True)
    return fault


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    arguments = parser.parse_args()
    folder = prepared(arguments.work, 60)
    work = arguments.work / "bad"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / "lakehouse", work / "lake")
    spark = session.build_session()
    lake = ("--root", str(work / "lake"), "--input", str(folder / "raw"))
    good = next((work / "lake" / "checkpoints").iterdir())
    bad = [*catalogs(work), *command_lines(lake), *raw_files(work, folder / "raw", work / "lake"), *dumps(work)]
    bad += [*checkpoints(work, good, lake), *labels(work, lake)]
    with one_session(spark):
        answers = [(one, _said(one, tried(one))) for one in bad]
    spark.stop()
    wrong = Counter(one.kind for one, fault in answers if fault is not None)
    kinds = Counter(one.kind for one in bad)
    print(f"\n{'bad inputs of kind':20}{'tried':>8}{'refused':>9}")
    for kind, count in kinds.items():
        print(f"{kind:20}{count:8}{count - wrong[kind]:9}")
    print(f"{'all':20}{len(bad):8}{len(bad) - wrong.total():9}")


@contextlib.contextmanager
def one_session(spark: SparkSession) -> Iterator[None]:
    """Commands use this session and leave it running."""
    build, stop = session.build_session, SparkSession.stop
    checked = session.checked_settings

    def shared(master: str | None = None, conf: dict[str, str] | None = None) -> SparkSession:
        checked(conf)
        return spark

    session.build_session, SparkSession.stop = shared, lambda self: None  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        session.build_session, SparkSession.stop = build, stop  # type: ignore[method-assign]


if __name__ == "__main__":
    main()

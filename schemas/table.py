"""A table's schema as plain data: names, Spark SQL types, comments, partitions, constraints. `jobs` turns it into Delta."""

from dataclasses import dataclass

from schemas import keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One column; `type` is a Spark SQL type. A `later` one came after the table's first release: `u2qt init` adds it."""

    name: str
    type: str
    comment: str
    nullable: bool = True
    later: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One Delta table of the lakehouse. `checks` maps a constraint's name to its SQL, which must hold for every version."""

    name: str
    comment: str
    fields: tuple[Field, ...]
    partition_by: tuple[str, ...] = ()
    checks: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        keys.name(self.name)
        for field in self.fields:
            keys.name(field.name)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)


def required(name: str, type: str, comment: str) -> Field:
    return Field(name=name, type=type, comment=comment, nullable=False)


def optional(name: str, type: str, comment: str, *, later: bool = False) -> Field:
    return Field(name=name, type=type, comment=comment, later=later)


RUN_ID = optional("run_id", "STRING", "Run that wrote the row; see table runs.")

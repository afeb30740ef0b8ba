"""Errors of the contracts.

SchemaError
├── CatalogError      a catalog folder that can't be used; carries every problem found
└── IdentifierError   a name, version or day that must not reach SQL or a path
"""

from dataclasses import dataclass


class SchemaError(ValueError):
    """Base of this package's errors."""


class IdentifierError(SchemaError):
    """A name, version, day or duration that does not have its documented form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong in one field of one file."""

    file: str
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: found {self.found}, expected {self.expected}"


class CatalogError(SchemaError):
    """A catalog that can't be used; `problems` has one entry per fault."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))

"""Errors of the jobs, by exit code. Anything else that reaches the command line is a bug (exit code 1).

U2qtError
├── GateRefused      10  data that did not pass a gate; nothing was published
├── BadInput         20  a file, argument, declaration or checkpoint that can't be used
└── Infrastructure   30  Java, disk, memory, permissions: right input, wrong machine
    └── CommitConflict   another process committed to the same partitions first; nothing of ours stands
"""


class U2qtError(Exception):
    """Base; the message names the thing, what was found, what was expected and the way out.

    `kept` is what a log or the ledger may hold of a message that quotes a statement or a value; by default all of it.
    """

    exit_code = 1

    def __init__(self, message: str, *, kept: str | None = None) -> None:
        super().__init__(message)
        self.kept = kept


class GateRefused(U2qtError):
    exit_code = 10


class BadInput(U2qtError):
    exit_code = 20


class Infrastructure(U2qtError):
    exit_code = 30


class CommitConflict(Infrastructure):
    pass

"""The gates that compare a day with the days published before it, as `expectations/drift.json` declares them.

Every gate has a general entry; an entry that names a source replaces it for that source. A threshold of null never speaks.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from schemas import keys

Gate = Literal["users", "clean_rows", "null_values", "absent_slices", "code_usage"]
GATES: tuple[Gate, ...] = ("users", "clean_rows", "null_values", "absent_slices", "code_usage")


class DriftGate(BaseModel):
    """One gate's thresholds, for all sources or for one; docs/operations.md says what each gate measures."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    gate: Gate
    source: Annotated[str, AfterValidator(keys.name)] | None = None
    warn: float | None = Field(ge=0, allow_inf_nan=False)  # at this value and above: noted
    block: float | None = Field(ge=0, allow_inf_nan=False)  # at this value and above: the day is not published

    @model_validator(mode="after")
    def _ordered(self) -> "DriftGate":
        if self.warn is not None and self.block is not None and self.warn > self.block:
            raise ValueError("a warn threshold that is not above the block threshold")
        if self.gate == "users" and self.source is not None:
            raise ValueError("no source in gate users, which counts users of any source")
        return self

    def severity(self, value: float) -> str:
        """`block`, `warn` or `ok`."""
        if self.block is not None and value >= self.block:
            return "block"
        return "warn" if self.warn is not None and value >= self.warn else "ok"


class DriftRules(BaseModel):
    """The file. `trailing_days` published days are the comparison; smaller counts than `least_rows` are measured, not judged."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1)
    trailing_days: int = Field(ge=1, le=90)
    least_rows: int = Field(ge=1)
    gates: list[DriftGate]

    @model_validator(mode="after")
    def _complete(self) -> "DriftRules":
        entries = [(gate.gate, gate.source) for gate in self.gates]
        twice = sorted({gate for gate, source in entries if entries.count((gate, source)) > 1})
        if twice:
            raise ValueError(f"gates: {', '.join(twice)} once each (and once per source)")
        missing = [gate for gate in GATES if (gate, None) not in entries]
        if missing:
            raise ValueError(f"gates: an entry without source for {', '.join(missing)} (null thresholds silence it)")
        return self

    def of(self, gate: Gate, source: str | None = None) -> DriftGate:
        """The entry for `source`, else the general one."""
        own = (entry for entry in self.gates if entry.gate == gate and entry.source == source)
        return next(own, None) or next(entry for entry in self.gates if entry.gate == gate and entry.source is None)

    @property
    def sources(self) -> set[str]:
        return {gate.source for gate in self.gates if gate.source is not None}

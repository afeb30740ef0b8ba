"""A training run's state between epochs, in one safetensors file, so that a killed run goes on to the same result.

The file belongs to one run: its identity covers layout, configuration and data. It is replaced as a whole or not at all.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.errors import TrainingError


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFile:
    """Where a run keeps its state, and which run it is."""

    path: Path
    identity: str  # 64 hex digits

    @classmethod
    def of(cls, path: Path, layout: FeatureLayout, config: TokenizerConfig, data: str) -> "RunFile":
        """`data` names what is streamed: other data, another run."""
        described = "\n".join((layout.to_json(), config.to_json(), data))
        return cls(path=path, identity=hashlib.sha256(described.encode()).hexdigest())

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replaces the file. `facts` are JSON."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
            save_file(own, scratch, metadata={"identity": self.identity, "facts": json.dumps(facts)})
            os.replace(scratch, self.path)
        finally:
            scratch.unlink(missing_ok=True)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts; None where there is no file or it is another run's. TrainingError for a damaged one."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("identity") != self.identity:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["facts"])  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise TrainingError(f"{self.path}: found no readable training state ({error}); delete the file to start over") from error

    def remove(self) -> None:
        """The run is over."""
        self.path.unlink(missing_ok=True)

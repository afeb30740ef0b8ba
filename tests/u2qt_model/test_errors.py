"""The exception tree, and the package's public surface."""

import inspect
import re
import subprocess
import sys

import u2qt_model
from u2qt_model import errors


def _classes() -> dict[str, type]:
    return {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}


def test_tree_in_the_docstring_is_the_code() -> None:
    """Every error hangs on the root, and is drawn."""
    drawn = re.findall(r"^(?:[├└]── )?(\w+Error)", errors.__doc__ or "", re.MULTILINE)
    assert drawn == list(_classes())
    assert all(issubclass(kind, errors.ModelError) for kind in _classes().values())


def test_public_surface_is_pinned() -> None:
    """What others may import from the package itself."""
    assert u2qt_model.__all__ == [
        "EventSlices",
        "FeatureBatch",
        "FeatureLayout",
        "ModelError",
        "ProfileSlices",
        "SourceLayout",
        "Token",
        "Tokenizer",
        "TokenizerConfig",
        "Vocabulary",
        "load",
        "save",
    ]
    assert all(hasattr(u2qt_model, name) for name in u2qt_model.__all__)


def test_import_needs_neither_spark_nor_petastorm() -> None:
    """Loading and encoding work without both."""
    check = "import sys, u2qt_model, u2qt_model.train; sys.exit(bool({'pyspark', 'petastorm', 'jobs', 'schemas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

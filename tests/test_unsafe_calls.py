"""Policy of the whole tree: nothing that runs what it reads (pickle, eval, unsafe YAML, a shell, XML with entities)."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("jobs", "schemas", "u2qt_model", "airflow_dags", "benchmarks", "examples")  # tests run documents and forge pickles
FILES = sorted(file for folder in FOLDERS for file in (REPOSITORY / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "lxml"}
XML = ("xml.etree", "xml.dom", "xml.sax", "xmlrpc")  # they resolve entities, or leave it to luck
EXPAT = {"jobs/stackexchange_dump.py"}  # refuses every document type, and is tested with bombs
BUILT_IN = {"eval", "exec", "compile", "__import__"}
CALLS = {"torch.load", "os.system", "os.popen", "tempfile.mktemp", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pandas.read_pickle"}
METHODS = {"to_pickle", "read_pickle", "pickleFile", "saveAsPickleFile"}
TRUE = {"allow_pickle", "shell", "trust_remote_code"}  # keywords that may not be true


def unsafe(text: str, file: str = "jobs/x.py") -> list[str]:
    """What of a module's text is against the policy: line and name."""
    tree = ast.parse(text)
    aliases = {alias.asname or alias.name: alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    aliases |= {
        alias.asname or alias.name: f"{node.module}.{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    safe_loaders |= {c.name for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and {_dotted(base, aliases) for base in c.bases} & safe_loaders}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [(node.lineno, name) for name in _modules(node) if _bad_module(name, file)]
        elif isinstance(node, ast.Call):
            found += [(node.lineno, name) for name in _bad_call(node, _dotted(node.func, aliases), safe_loaders, aliases)]
    return [f"{line}: {name}" for line, name in found]


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def _bad_module(name: str, file: str) -> bool:
    expat = name.startswith("xml.parsers") and file not in EXPAT
    return name.split(".")[0] in MODULES or name.startswith(XML) or expat


def _bad_call(node: ast.Call, name: str, safe_loaders: set[str], aliases: dict[str, str]) -> list[str]:
    loader = next(
        (_dotted(word.value, aliases) for word in node.keywords if word.arg == "Loader"), _dotted(node.args[1], aliases) if len(node.args) > 1 else ""
    )
    found = [f"{name} without a SafeLoader"] if name == "yaml.load" and loader not in safe_loaders else []
    if name in BUILT_IN | CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
        found.append(name)
    literally_false = ast.Constant(value=False).value
    return found + [word.arg for word in node.keywords if word.arg in TRUE and getattr(word.value, "value", None) is not literally_false]


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, aliases)}.{node.attr}"
    return aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_nothing_runs_what_it_reads(file: Path) -> None:
    """Every module, benchmarks and examples included."""
    assert unsafe(file.read_text(encoding="utf-8"), file.relative_to(REPOSITORY).as_posix()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import os.path, dill as d",
        "import torch\ntorch.load('x')",
        "from torch import load as read\nread('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "import pandas as pd\npd.read_pickle('x')",
        "frame.to_pickle('x')",
        "eval('1')",
        "exec(text)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.load(text, yaml.FullLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "import xml.etree.ElementTree",
        "from xml.dom import minidom",
        "from xml import sax",
        "from xml.parsers import expat",
        "from transformers import AutoModel\nAutoModel.from_pretrained('x', trust_remote_code=True)",
        "import tempfile\ntempfile.mktemp()",
    ],
)
def test_the_policy_speaks(text: str) -> None:
    """Each kind of fault, also behind another name."""
    assert unsafe(text)


@pytest.mark.parametrize(
    "text",
    [
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nclass Own(yaml.SafeLoader):\n    pass\nyaml.load(text, Loader=Own)",
        "import yaml\nyaml.safe_load(text)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import subprocess\nsubprocess.run(['ls'])",
        "model.eval()",
        "import re\nre.compile('x')",
    ],
)
def test_the_policy_is_silent_on_safe_forms(text: str) -> None:
    """Else it would be switched off."""
    assert unsafe(text) == []

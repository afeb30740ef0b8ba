"""U2QT's tokenizer: rows of `user_features` to short sequences of codes. PyTorch, no Spark.

`u2qt_model.stream` (the only user of Petastorm), `u2qt_model.train` and `u2qt_model.presets` are imported by name.
"""

import pyarrow  # noqa: F401  # before torch: the safe order of the two

from u2qt_model.batch import EventSlices, FeatureBatch, ProfileSlices
from u2qt_model.checkpoint import load, save
from u2qt_model.config import FeatureLayout, SourceLayout, TokenizerConfig
from u2qt_model.errors import ModelError
from u2qt_model.tokenizer import Tokenizer
from u2qt_model.vocabulary import Token, Vocabulary

__all__ = [
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

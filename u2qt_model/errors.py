"""Every error this package raises on purpose. Messages carry row hashes and column names, never a user's content.

ModelError
├── ConfigError       a setting or feature layout that can't work
├── BatchError        columns that aren't what the feature layout promises
├── CodesError        codes, token ids or token names outside the vocabulary
├── CheckpointError   a checkpoint folder that can't be trusted, or would be overwritten
├── StreamError       a file that can't be streamed, or a row count that doesn't add up
├── TrainingError     a training set nothing can be learnt from
└── ExportError       a vocabulary or language model that can't be joined with ours
"""


class ModelError(Exception):
    """The root: bad input, never a bug."""


class ConfigError(ModelError):
    """A setting or feature layout that can't work; names the setting, the value and what was expected."""


class BatchError(ModelError):
    """A column that isn't what the feature layout promises; names the column and the row hash."""


class CodesError(ModelError):
    """A code, token id or token name outside the vocabulary."""


class CheckpointError(ModelError):
    """A checkpoint folder with a missing, changed or foreign file; names the file, found and expected."""


class StreamError(ModelError):
    """A file that can't be streamed, or rows that don't add up to the expected count."""


class TrainingError(ModelError):
    """A training set nothing can be learnt from."""


class ExportError(ModelError):
    """A base vocabulary, embedding matrix or folder that the export can't use; names it, what was found and the way out."""

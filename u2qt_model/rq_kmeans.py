"""The baseline every learned quantizer has to beat: residual k-means on the projected slices, no network, no epochs.

Pooled when all levels are shared, per source when none is; `CodebookStack.start` is all of its training.
"""

from u2qt_model.quantizer import Quantizer


class RqKmeans(Quantizer):
    """Codebooks right behind the projection."""

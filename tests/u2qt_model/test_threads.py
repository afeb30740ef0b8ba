"""A fixed number of torch threads around a block."""

import pytest
import torch

from u2qt_model.threads import fixed_threads


def test_threads_are_set_and_restored() -> None:
    """Also after an error."""
    before = torch.get_num_threads()
    with fixed_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), fixed_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before

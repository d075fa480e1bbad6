"""MetaLM for PyTorch: a dataset of ready batches, and their way to a device.

Needs torch, which is no dependency of this package.
"""

from importlib.util import find_spec

if find_spec("torch") is None:
    raise ImportError(
        "metalm.torch needs PyTorch, which is not installed; pytorch.org says how to install it"
    )

from metalm.torch.dataset import BatchDataset, TensorIterator
from metalm.torch.feed import DeviceFeed

__all__ = ["BatchDataset", "DeviceFeed", "TensorIterator"]

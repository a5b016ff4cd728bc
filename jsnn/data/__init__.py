"""Data sets, and sources of batches for training and evaluation."""

from jsnn.data.datasets import Info, Split, info, load_split, register
from jsnn.data.sources import Batch, Source, array_source, event_source, resident_source, subset

__all__ = [
    "Batch",
    "Info",
    "Source",
    "Split",
    "array_source",
    "event_source",
    "info",
    "load_split",
    "register",
    "resident_source",
    "subset",
]

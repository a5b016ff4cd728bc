"""From an ANN's variables to an SNN's: thresholds are balanced layer by layer and scaled for few time steps."""

from jsnn.conversion.balancing import balance_thresholds
from jsnn.conversion.scaling import (
    from_paper_thresholds,
    paper_thresholds,
    scale_paper_thresholds,
    scale_thresholds,
)
from jsnn.conversion.thresholds import Thresholds, convert, parameters_by_channel, trained_thresholds

__all__ = [
    "Thresholds",
    "balance_thresholds",
    "convert",
    "from_paper_thresholds",
    "paper_thresholds",
    "parameters_by_channel",
    "scale_paper_thresholds",
    "scale_thresholds",
    "trained_thresholds",
]

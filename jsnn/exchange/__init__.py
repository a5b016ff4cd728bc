"""From and to other libraries: weights and checkpoints of PyTorch, networks to snnTorch, graphs of NIR.

What needs their packages to be imported is not imported here: `to_snntorch`, `to_nir` and `from_nir`, in the modules of
those names.
"""

from jsnn.exchange.authors import AuthorsCheckpoint, load_authors_checkpoint
from jsnn.exchange.layers import layer_graph
from jsnn.exchange.state_dicts import from_torch
from jsnn.exchange.torch_files import read_torch_file

__all__ = ["AuthorsCheckpoint", "from_torch", "layer_graph", "load_authors_checkpoint", "read_torch_file"]

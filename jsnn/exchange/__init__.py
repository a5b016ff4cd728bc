"""From and to other libraries: weights and checkpoints of PyTorch, networks to snnTorch, graphs of NIR.

`to_snntorch`, `to_nir` and `from_nir` need packages of these libraries. They are not imported here, but are in modules
of their own.
"""

from jsnn.exchange.authors import AuthorsCheckpoint, load_authors_checkpoint
from jsnn.exchange.layers import layer_graph
from jsnn.exchange.state_dicts import from_torch
from jsnn.exchange.torch_files import read_torch_file

__all__ = ["AuthorsCheckpoint", "from_torch", "layer_graph", "load_authors_checkpoint", "read_torch_file"]

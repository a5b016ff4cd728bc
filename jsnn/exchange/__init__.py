"""From and to other libraries."""

from jsnn.exchange.layers import layer_graph

__all__ = ["layer_graph"]

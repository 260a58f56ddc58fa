"""The arithmetic of the cells and layers, in numpy. The only place of the server with linear algebra."""

from cellserve_server.cells.initializers import draw_weights
from cellserve_server.cells.network import Network, build_network

__all__ = ["Network", "build_network", "draw_weights"]

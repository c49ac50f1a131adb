"""The dashboard of gradscope: runs as a table, the flow of their gradients, the map of a sweep."""

from gradscope.dashboards.app import create_app
from gradscope.dashboards.server import build_server, serve

__all__ = ["build_server", "create_app", "serve"]

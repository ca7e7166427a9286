"""Federated-learning simulation that the three experiments stand on; knows nothing of them."""

from importlib.metadata import version

__version__ = version("secadam")

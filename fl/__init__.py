"""Federated-learning simulation that the three experiments stand on; knows nothing of them."""

__version__ = "0.2.0"

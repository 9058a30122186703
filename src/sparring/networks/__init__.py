"""Networks and layers that no library ships, and adapters of stock networks."""

from sparring.networks.mlp import MLP, Perceptron

__all__ = ["MLP", "Perceptron"]

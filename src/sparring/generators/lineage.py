"""Which weights a denoiser has, and which it was trained from: whether what was trained beside one fits another."""

from sparring.generators.denoising_network import DenoisingNetwork
from sparring.generators.merging import merged_network
from sparring.networks.digest import digest_of


def fingerprint(denoiser: DenoisingNetwork) -> str:
    """Digest of the weights of its network, with adapters multiplied in: equal for equal weights, on every device."""
    return digest_of(merged_network(denoiser.net).state_dict()).hex()


def lineage(denoiser: DenoisingNetwork) -> list[str]:
    """Its fingerprint, and those of what it was trained from, newest first, as far as runs say."""
    return [fingerprint(denoiser), *denoiser.ancestors]

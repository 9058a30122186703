"""Adversarial training of diffusion models: train, tune and distil with a discriminator in the loop."""

"""Methods whose generator is a denoiser of a few large steps, each opposed by a discriminator."""

"""Training of guides: networks that see noisy images and steer the sampler of a denoiser."""

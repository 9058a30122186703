"""Guidance: what steers a sampler towards a condition, a better model, a rarer image; a system a file."""

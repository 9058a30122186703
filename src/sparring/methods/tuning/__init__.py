"""Methods that tune a trained denoiser."""

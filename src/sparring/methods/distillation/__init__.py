"""Methods that distil a trained denoiser into a few-step student."""

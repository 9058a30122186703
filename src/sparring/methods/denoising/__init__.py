"""Methods that train a denoiser by its denoising loss."""

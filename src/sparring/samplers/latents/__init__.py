"""Which latents of a generator are drawn; a system a file."""

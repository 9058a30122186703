"""Methods that train a generator from noise against a discriminator."""

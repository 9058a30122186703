"""Several runs trained and measured alike."""

"""Training by likelihood: the probability that a generator gives to the images themselves."""

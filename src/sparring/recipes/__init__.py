"""Recipes: from YAML and flags to the objects of a run."""

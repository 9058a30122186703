"""Larger images than a network was trained for; a system a file."""

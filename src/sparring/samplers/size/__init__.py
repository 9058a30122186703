"""Images of another size, or at another place, than a network was trained for; a system a file."""

"""Other walks to the same images: fewer calls, or something to show earlier; a system a file."""

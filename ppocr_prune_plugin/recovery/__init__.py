"""Getting accuracy back after channels were removed."""

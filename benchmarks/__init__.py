"""Speed as a ratio, measured in one process in turn against named rivals: `make bench`."""

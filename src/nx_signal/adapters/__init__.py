"""One module or package per outside system; each fulfils ports.py and imports nothing above it."""

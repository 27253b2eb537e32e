"""A Trio client of the stream and of the REST API, for other programs to use."""

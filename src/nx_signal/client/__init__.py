"""A Trio client of the stream and of the REST API: what other programs may build on."""

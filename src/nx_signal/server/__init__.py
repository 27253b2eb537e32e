"""One TCP port: accept, read the request head, HTTP/1.1, rate limits."""

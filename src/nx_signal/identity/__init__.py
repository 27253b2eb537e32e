"""Authentication and authorization: tokens, the embedded issuer, permissions."""

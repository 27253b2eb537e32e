"""Who speaks, and what they may do: tokens, the embedded issuer, permissions."""

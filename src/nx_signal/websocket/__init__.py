"""The encrypted stream over WebSocket: protocol, sealing, frames, one connection (CONTRACT §1)."""

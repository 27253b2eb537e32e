"""One user's notifications, self-scoped by construction."""

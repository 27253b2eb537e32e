"""PostgreSQL as the store: the way of several instances that share one truth."""

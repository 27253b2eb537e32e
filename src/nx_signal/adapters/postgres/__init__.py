"""PostgreSQL as the store, for several instances that share one database."""

"""The embedded store and journal: SQLite files in the data directory."""

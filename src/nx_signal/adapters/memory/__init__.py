"""Everything in this process's memory: for deterministic tests, and for one instance by itself."""

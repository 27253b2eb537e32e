"""What operators see: logs, metrics, and which parts are up. Imports nothing of Signal but errors."""

"""What operators see: logs, metrics, and which parts are up. Imports of Signal only data and errors."""

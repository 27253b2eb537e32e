"""Kafka: a source of activities, and the producer of `nx-signal publish`. `driver.py` is asyncio's side."""

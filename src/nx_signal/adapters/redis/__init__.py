"""Redis pub/sub between the instances and with sister services. `driver.py` is asyncio's side."""

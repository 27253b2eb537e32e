"""REST of CONTRACT §4 on Quart, served over hypercorn's protocol on Trio."""

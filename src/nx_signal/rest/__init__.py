"""REST of CONTRACT §4 on Quart."""

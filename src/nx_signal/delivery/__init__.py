"""From a committed change to the clients that are connected, over any transport."""

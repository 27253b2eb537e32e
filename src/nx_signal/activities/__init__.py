"""From a message of a source to rows in inboxes: decode, resolve, render, persist."""

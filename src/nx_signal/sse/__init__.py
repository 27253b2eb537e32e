"""The inbox's log as Server-Sent Events (WHATWG HTML §9.2): one more transport of delivery."""

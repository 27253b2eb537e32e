"""Signal: the realtime edge of a commerce platform, one Trio process."""

__version__ = "0.1.0"

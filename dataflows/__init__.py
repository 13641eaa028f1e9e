"""One module per job; each runs as `python -m bytewax.run dataflows.<name>`."""

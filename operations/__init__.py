"""What an operator types: `python -m operations.<name>`."""

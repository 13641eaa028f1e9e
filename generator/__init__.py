"""Realistic engagement events into PostgreSQL: `python -m generator`."""

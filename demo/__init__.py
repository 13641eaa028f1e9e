"""Every service from wheels, and the demo on top of them; the tests use the same services."""

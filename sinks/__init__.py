"""Where events go: one system, one module; positions, fences, retries; no field of an event is named here."""

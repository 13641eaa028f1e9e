"""Where events come from: one system, one module; no field of an event is named here."""

"""User engagement, pure: fields, codec, parse, enrich, totals, boards. No client library, no clock."""

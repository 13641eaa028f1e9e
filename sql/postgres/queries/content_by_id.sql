-- Contents that are not in memory yet, many at once.
SELECT id::text, slug, title, content_type, length_seconds FROM content WHERE id = ANY(%(ids)s::uuid[])

-- Every content, for the bulk load at start and the refresh.
SELECT id::text, slug, title, content_type, length_seconds FROM content

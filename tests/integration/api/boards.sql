-- Boards by brute force over the events themselves: by content, of the buckets (column: minute or win) that begin at
-- starts (seconds since 1970), in time or late; each bucket apart if asked.
WITH
    seen AS (
        SELECT
            *,
            event_us / 60000000 * 60 AS minute,
            event_us / 600000000 * 600 AS win,
            coalesce(
                max(least(event_us, kafka_us)) OVER (
                    PARTITION BY kafka_partition ORDER BY kafka_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ),
                -1
            ) AS watermark
        FROM events
    ),
    measured AS (
        SELECT
            *,
            CASE WHEN length_s > 0 THEN round(duration_ms::numeric * 100 / (1000 * length_s), 2) END AS percentage,
            CASE kind WHEN 'play' THEN 1 WHEN 'pause' THEN 0.5 WHEN 'finish' THEN 3 ELSE 0.3 END AS weight,
            CASE WHEN %(column)s = 'minute' THEN minute ELSE win END AS bucket,
            CASE WHEN %(column)s = 'minute' THEN 60 ELSE 600 END AS length
        FROM seen
    ),
    counted AS (
        SELECT
            *,
            round(weight * (1 + least(coalesce(percentage, 0), 100) / 100), 3) AS points
        FROM measured
        WHERE content IS NOT NULL AND bucket = ANY(%(starts)s) AND (watermark < (bucket + length + 600) * 1000000) = %(in_time)s
    )
SELECT
    CASE WHEN %(apart)s THEN bucket END AS bucket,
    content,
    sum(points) AS score,
    count(*) AS events,
    count(DISTINCT person) AS unique_users,
    coalesce(sum(duration_ms), 0) / 1000.0 AS engagement_seconds,
    round(avg(percentage), 2) AS mean_percentage,
    count(*) FILTER (WHERE kind = 'play') AS play,
    count(*) FILTER (WHERE kind = 'pause') AS pause,
    count(*) FILTER (WHERE kind = 'finish') AS finish,
    count(*) FILTER (WHERE kind = 'click') AS click,
    count(*) - count(percentage) AS no_pct
FROM counted
GROUP BY 1, content
ORDER BY score DESC, events DESC, content COLLATE "C";

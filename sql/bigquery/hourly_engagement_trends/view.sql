-- One row per hour, content type and event type: the last 7 days (UTC). Distinct users of hours do not add up to days.
CREATE OR REPLACE VIEW `{project}.{dataset}.hourly_engagement_trends` AS
SELECT
  DATE(event_ts) AS day,
  TIMESTAMP_TRUNC(event_ts, HOUR) AS hour,
  content_type,
  event_type,
  COUNT(*) AS events,
  APPROX_COUNT_DISTINCT(user_id) AS unique_users,
  SUM(engagement_seconds) AS engagement_seconds,
  AVG(engagement_percentage) AS mean_percentage
FROM `{project}.{dataset}.{table}`
WHERE event_ts >= TIMESTAMP_SUB(TIMESTAMP_TRUNC(CURRENT_TIMESTAMP(), DAY), INTERVAL 7 DAY)
GROUP BY day, hour, content_type, event_type;

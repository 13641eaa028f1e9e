-- One row per day, content and event type: the last 30 days (UTC). A filter on `day` narrows it further.
CREATE OR REPLACE VIEW `{project}.{dataset}.daily_engagement_summary` AS
SELECT
  DATE(event_ts) AS day,
  content_id,
  MAX_BY(content_title, processed_at) AS content_title,
  MAX_BY(content_type, processed_at) AS content_type,
  event_type,
  COUNT(*) AS events,
  APPROX_COUNT_DISTINCT(user_id) AS unique_users,
  SUM(engagement_seconds) AS engagement_seconds,
  AVG(engagement_percentage) AS mean_percentage
FROM `{project}.{dataset}.{table}`
WHERE event_ts >= TIMESTAMP_SUB(TIMESTAMP_TRUNC(CURRENT_TIMESTAMP(), DAY), INTERVAL 30 DAY)
GROUP BY day, content_id, event_type;

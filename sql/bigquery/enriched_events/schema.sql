-- One row per enriched event. The last six columns say which Kafka record a row came from: only the sink fills them.
CREATE TABLE IF NOT EXISTS `{project}.{dataset}.{table}` (
  event_id STRING NOT NULL,
  content_id STRING,
  content_slug STRING,
  content_title STRING,
  content_type STRING,
  content_length_seconds INT64,
  user_id STRING,
  event_type STRING NOT NULL,
  event_ts TIMESTAMP NOT NULL,
  duration_ms INT64,
  engagement_seconds FLOAT64,
  engagement_percentage FLOAT64,
  device STRING,
  raw_payload STRING,
  processed_at TIMESTAMP,
  anomalies ARRAY<STRING>,
  source_topic STRING,
  source_epoch STRING,
  kafka_partition INT64,
  kafka_offset INT64,
  kafka_timestamp TIMESTAMP,
  ingest_timestamp TIMESTAMP
)
PARTITION BY TIMESTAMP_TRUNC(event_ts, DAY)
CLUSTER BY content_id, event_type
OPTIONS (require_partition_filter = TRUE);

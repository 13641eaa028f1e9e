-- One row per event_id, the first that Kafka held: the last 30 days (UTC). Two Kafka records are two events in the table.
CREATE OR REPLACE VIEW `{project}.{dataset}.enriched_events_once` AS
SELECT *
FROM `{project}.{dataset}.{table}`
WHERE event_ts >= TIMESTAMP_SUB(TIMESTAMP_TRUNC(CURRENT_TIMESTAMP(), DAY), INTERVAL 30 DAY)
QUALIFY ROW_NUMBER() OVER (PARTITION BY event_id ORDER BY kafka_timestamp, kafka_partition, kafka_offset) = 1;

-- Which write stream feeds which Kafka partition: written before the first append, because BigQuery cannot list streams.
-- Only the stream of the highest claim may be written. A newcomer finalises all others before it reads how far they came.
CREATE TABLE IF NOT EXISTS `{project}.{dataset}._sink_streams` (
  source_topic STRING NOT NULL,
  source_epoch STRING NOT NULL,
  kafka_partition INT64 NOT NULL,
  claim INT64 NOT NULL,
  stream STRING NOT NULL,
  claimed_at TIMESTAMP NOT NULL
);

//! A small Kafka client library for our own commands and tests. (contract stub)

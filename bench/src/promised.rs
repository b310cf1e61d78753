//! What every line of JSON has, whatever the case: people read these by name.
//!
//! Owner: ringbench; its tests take this file in as well.

pub const KEYS: [&str; 13] = [
    "case",
    "records_per_second",
    "bytes_per_second",
    "null_bytes_per_second",
    "eta",
    "broker_cpu_ns_per_record",
    "p50_us",
    "p99_us",
    "p99_9_us",
    "max_us",
    "errors",
    "to_reach",
    "reached",
];

//! How badly the simulated disk and network behave. Probabilities are in parts per million.
//!
//! Floor 1. A plain value; the driver may change it while a schedule runs.

/// Latencies and probabilities of failure. The default world is slow but sound.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Least and largest time of one disk operation, in microseconds.
    pub disk_us: (u64, u64),
    /// A disk operation takes up to `disk_stall_us_max` more.
    pub disk_stall_ppm: u32,
    pub disk_stall_us_max: u64,
    pub read_error_ppm: u32,
    /// The write fails, and may have reached the disk in part.
    pub write_error_ppm: u32,
    /// The flush fails, what it covered may be lost, and the next one says that all is well.
    pub flush_error_ppm: u32,
    /// A write in flight when its process is killed lands up to `late_write_us_max` later.
    pub late_write_ppm: u32,
    pub late_write_us_max: u64,
    /// Least and largest time of a segment on the network, in microseconds.
    pub net_us: (u64, u64),
    /// A segment takes up to `net_delay_us_max` more; what follows it on the connection waits.
    pub net_delay_ppm: u32,
    pub net_delay_us_max: u64,
    /// A write cuts the connection; a part of what is under way may still arrive.
    pub net_cut_ppm: u32,
    pub net_refuse_ppm: u32,
    /// A read answers less than has arrived.
    pub net_partial_ppm: u32,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            disk_us: (80, 250),
            disk_stall_ppm: 0,
            disk_stall_us_max: 100_000,
            read_error_ppm: 0,
            write_error_ppm: 0,
            flush_error_ppm: 0,
            late_write_ppm: 300_000,
            late_write_us_max: 20_000,
            net_us: (20, 200),
            net_delay_ppm: 0,
            net_delay_us_max: 300_000,
            net_cut_ppm: 0,
            net_refuse_ppm: 0,
            net_partial_ppm: 100_000,
        }
    }
}

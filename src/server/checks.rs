//! What this machine allows the process, looked at before anything is started.
//!
//! Floor 6. Owner: broker. Reads /proc only; without it the checks are skipped, and what is missing
//! shows later with the kernel's own words.

use std::net::SocketAddr;

use super::error::StartError;

/// Executors, journals and a few clients.
const DESCRIPTORS_MIN: u64 = 256;
/// With room for fewer clients the operator is told so.
const CLIENTS_MIN: u64 = 1000;
/// Rings and files of one shard.
const DESCRIPTORS_PER_SHARD: u64 = 64;

/// kernel.io_uring_disabled, if this kernel has it.
pub fn io_uring_disabled() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(text.trim().to_owned())
}

/// Port 0 would be another port for each shard, and none that clients know.
pub fn port(listen: SocketAddr) -> Result<(), StartError> {
    if listen.port() != 0 {
        return Ok(());
    }
    Err(StartError::new(format!("--listen {listen}: 0 is not a port"), "name one, such as 7100"))
}

/// What the file descriptors are enough for.
#[derive(Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Clients of each shard, at most: beyond them, segments could not be opened any more.
    pub clients_per_shard: u32,
    pub warning: Option<String>,
}

/// Whether there are enough file descriptors, after the soft limit was raised. Answers a warning if
/// there are enough to start, but not for all the clients that may connect.
pub fn descriptors(shards: u32) -> Result<Descriptors, StartError> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    match limit(&limits, "Max open files") {
        Some(limit) => judge(limit, shards),
        None => Ok(Descriptors { clients_per_shard: u32::MAX, warning: None }),
    }
}

fn judge(limit: u64, shards: u32) -> Result<Descriptors, StartError> {
    let least = DESCRIPTORS_MIN + DESCRIPTORS_PER_SHARD * u64::from(shards);
    let cure = "raise it with `ulimit -n 65536` (systemd: LimitNOFILE=65536; Docker: --ulimit nofile=65536)";
    if limit < least {
        let what = format!("too few file descriptors: {limit} are allowed, {shards} shards need {least}");
        return Err(StartError::new(what, format!("{cure}, or use fewer shards with --shards N")));
    }
    // A quarter is for segments.
    let clients = (limit - least) / 4 * 3;
    let warning = || format!("{limit} file descriptors are allowed: {clients} clients can connect; {cure}");
    let per_shard = u32::try_from(clients / u64::from(shards)).unwrap_or(u32::MAX).max(1);
    Ok(Descriptors { clients_per_shard: per_shard, warning: (clients < CLIENTS_MIN).then(warning) })
}

/// The soft limit of a line of /proc/self/limits; `None` for "unlimited".
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_judged() {
        let text = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024   524288   files\n";
        assert_eq!(limit(text, "Max open files"), Some(1024));
        assert_eq!(limit("Max open files  unlimited unlimited files", "Max open files"), None);
        let error = judge(300, 1).unwrap_err();
        assert!(error.cure.contains("ulimit -n") && error.cure.contains("--shards N"), "{error}");
        let few = judge(1024, 2).unwrap();
        assert!(few.warning.unwrap().contains("480 clients") && few.clients_per_shard == 240);
        assert_eq!(judge(20_384, 2), Ok(Descriptors { clients_per_shard: 7_500, warning: None }));
    }
}

//! Figures and requests of the Linux process: clocks, limits, CPUs, memory, scheduling.
//!
//! Floor 1. Owner: broker. What the kernel refuses here is optional and left as it is.

use std::fs;
use std::io;

/// EEVDF slice of a shard thread. Under CPU saturation it took a flush from 4.0 ms to 0.3 ms (p50).
const SLICE_NS: u64 = 100_000;

/// A kernel clock, in nanoseconds.
pub(super) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which outlives the call.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "the kernel has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A random seed from the kernel.
pub(super) fn seed() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: the kernel writes at most 8 bytes into an array of 8.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(count, 8, "getrandom of a few bytes does not fail");
    u64::from_le_bytes(bytes)
}

pub(super) fn boot_id() -> u128 {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

/// Raises the soft limits of locked memory and of open files to the hard ones.
pub(super) fn raise_limits() {
    for resource in [libc::RLIMIT_MEMLOCK, libc::RLIMIT_NOFILE] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both calls use one rlimit, which outlives them.
        unsafe {
            if libc::getrlimit(resource, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
                limit.rlim_cur = limit.rlim_max;
                // Refused: the start-up checks of the server name the limit that is too low.
                libc::setrlimit(resource, &limit);
            }
        }
    }
}

/// Whether the kernel lets this process have a ring; glommio would panic where it does not.
pub(super) fn probe_io_uring() -> io::Result<()> {
    // struct io_uring_params is 120 bytes; all zero asks for a plain ring.
    let mut params = [0u64; 15];
    // SAFETY: the kernel reads and writes one io_uring_params, which outlives the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else knows it.
    unsafe { libc::close(ring as libc::c_int) };
    Ok(())
}

/// struct sched_attr of the kernel, in its first version.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for a short time slice for this thread, so that it is let on a CPU soon after an I/O completes.
pub(super) fn ask_short_slice() {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: SLICE_NS,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of attr. A kernel before 6.12 ignores the runtime.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attr, 0) };
}

pub(in crate::rt) fn cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set; the kernel fills it; CPU_ISSET reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return vec![0];
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

pub(in crate::rt) fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    // Without /proc, assume a small machine.
    let total = kilobytes.map_or(1 << 30, |kilobytes| kilobytes << 10);
    group_limit().map_or(total, |limit| limit.min(total))
}

/// The smallest memory.max of this process's control group and its ancestors (cgroup v2).
fn group_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
    let mut path = path.trim_matches('/').to_owned();
    let mut least = None;
    loop {
        let limit = fs::read_to_string(format!("/sys/fs/cgroup/{path}/memory.max"));
        if let Some(limit) = limit.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
            least = Some(least.map_or(limit, |least: u64| least.min(limit)));
        }
        if path.is_empty() {
            return least;
        }
        path.truncate(path.rfind('/').unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_plausible() {
        assert!(!cpus().is_empty());
        assert!(memory() > 100 << 20);
        assert!(probe_io_uring().is_ok());
        assert_ne!(boot_id(), 0);
        assert_ne!(seed(), seed());
    }
}

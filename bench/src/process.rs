//! What the kernel says of processes and disks, and precise time.
//!
//! Owner: ringbench. The only file of the tool that calls the kernel by itself. Times are nanoseconds of
//! CLOCK_MONOTONIC, which all processes of a machine share: a stamp made in one is read in another.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Nanoseconds of the machine's monotonic clock.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which outlives the call. This clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Blocks this thread until the clock shows `at_ns`.
pub fn sleep_until(at_ns: u64) {
    let time = libc::timespec {
        tv_sec: (at_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (at_ns % 1_000_000_000) as libc::c_long,
    };
    loop {
        // SAFETY: the kernel reads one timespec, which outlives the call; an absolute sleep that a signal
        // ended is simply begun again.
        let result = unsafe {
            libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &time, std::ptr::null_mut())
        };
        if result != libc::EINTR {
            return;
        }
    }
}

/// Lets sleeps of this thread end when they are due: the kernel's default is to be up to 50 us late.
pub fn tighten_timer() {
    // SAFETY: takes numbers only, and concerns this thread alone. Refused: sleeps stay less precise, which
    // the generator's own error shows.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
}

/// The process of this command dies with the thread that starts it, however that ends.
pub fn die_together(command: &mut Command) {
    let tie = || {
        // SAFETY: takes numbers only; allowed between fork and exec, where nothing else is called.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0) };
        Ok(())
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

/// Asks a child that has not been waited for to end.
pub fn terminate(child: u32) {
    // SAFETY: a signal to our own child, which has not been waited for: its id is still its own.
    unsafe { libc::kill(child as libc::pid_t, libc::SIGTERM) };
}

/// A port that nothing listened on a moment ago, of a loopback address that this process alone uses: clients
/// that try again while a broker is down would take a port of 127.0.0.1 for their own end.
pub fn free_address() -> io::Result<SocketAddr> {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    std::net::TcpListener::bind((Ipv4Addr::new(127, 64 | a & 63, b, c), 0))?.local_addr()
}

/// The program of this name that was built beside this one.
pub fn beside(name: &str) -> io::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(io::Error::other(format!(
        "{} is not there: build it beside ringbench (cargo build --release --workspace), or name a \
         running broker with --broker",
        path.display()
    )))
}

/// User and system time of a process, from the kernel's clock ticks (10 ms).
pub fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name, which may hold spaces and brackets: count from its end.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    of_ticks(ticks(11) + ticks(12))
}

fn of_ticks(ticks: u64) -> Duration {
    // SAFETY: asks for a constant of the system; no memory is involved.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Duration::from_millis(ticks * 1000 / per_second)
}

/// User and system time of the whole machine, interrupts left out.
pub fn cpu_of_all() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace();
    // `cpu user nice system idle ...`
    of_ticks(fields.skip(1).take(3).filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// Totals of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessUse {
    pub cpu: Duration,
    pub resident_bytes: u64,
    pub resident_bytes_max: u64,
    /// What it caused to be written to disks, whichever thread and for whatever purpose; `None` where the
    /// kernel does not account for it.
    pub written_bytes: Option<u64>,
}

/// `None`: it has ended.
pub fn use_of(pid: u32) -> Option<ProcessUse> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    Some(ProcessUse {
        cpu: cpu_of(pid),
        resident_bytes: field(&status, "VmRSS:")? << 10,
        resident_bytes_max: field(&status, "VmHWM:")? << 10,
        written_bytes: field(&read("io"), "write_bytes:"),
    })
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Totals of the disk under a folder, over all processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskUse {
    pub writes: u64,
    pub written_bytes: u64,
    pub flushes: u64,
}

/// `None` if the kernel does not account for that disk.
pub fn disk_use(dir: &Path) -> Option<DiskUse> {
    let device = std::fs::metadata(dir).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let whole = flushes_of_whole(major, minor);
    let stats = std::fs::read_to_string("/proc/diskstats").ok()?;
    stats.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        (number(0) == Some(major.into()) && number(1) == Some(minor.into())).then(|| DiskUse {
            writes: number(7).unwrap_or(0),
            written_bytes: number(9).unwrap_or(0) * 512,
            flushes: whole.or(number(18)).unwrap_or(0),
        })
    })
}

/// The kernel counts flushes for whole disks only: those of the disk that holds a partition.
fn flushes_of_whole(major: u32, minor: u32) -> Option<u64> {
    let of = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if !of.join("partition").exists() {
        return None;
    }
    let stat = std::fs::read_to_string(of.join("../stat")).ok()?;
    stat.split_whitespace().nth(15)?.parse().ok()
}

impl DiskUse {
    pub fn since(self, earlier: DiskUse) -> DiskUse {
        DiskUse {
            writes: self.writes.saturating_sub(earlier.writes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            flushes: self.flushes.saturating_sub(earlier.flushes),
        }
    }
}

/// Bytes that a folder takes on its disk, with all that is in it.
pub fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        // Blocks of 512 bytes, whatever the filesystem's own are.
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_taken_cpu_time_and_memory() {
        let mut sum = 0u64;
        while cpu_of(std::process::id()).is_zero() {
            sum = (0..1_000_000).fold(sum, |sum, i| sum.wrapping_mul(31).wrapping_add(i));
        }
        assert!(cpu_of(u32::MAX).is_zero(), "{sum}");
        assert!(cpu_of_all() >= cpu_of(std::process::id()));
        let used = use_of(std::process::id()).unwrap();
        assert!(used.resident_bytes > 100_000 && used.resident_bytes_max >= used.resident_bytes);
        // A figure that is not known is none: as 0 it would reach every upper bound.
        assert!(use_of(u32::MAX).is_none());
    }

    #[test]
    fn the_clock_goes_on_and_sleeps_are_not_short() {
        tighten_timer();
        let start = now_ns();
        sleep_until(start + 2_000_000);
        assert!(now_ns() >= start + 2_000_000);
    }

    #[test]
    fn a_folder_has_the_size_of_its_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::fs::write(folder.path().join("in/file"), vec![1; 100_000]).unwrap();
        assert!(folder_bytes(folder.path()) >= 100_000);
    }
}

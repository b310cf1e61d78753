//! A server that was started for one round: broker or null, in a fresh folder, ended and removed
//! with the round. And what the kernel says of it: CPU time, flushes of its disk.
//!
//! Owner: ringbench.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

const READY_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(20);

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    dir: PathBuf,
}

impl Server {
    /// Starts `command` with its data in `dir`, which must not exist, and waits until it listens.
    /// What it says goes to a file beside the folder.
    pub async fn start(mut command: Command, address: SocketAddr, dir: PathBuf) -> io::Result<Server> {
        std::fs::create_dir_all(&dir)?;
        let said = dir.join("said");
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&said)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn()?;
        let mut server = Server { child, address, dir };
        let start = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = server.child.try_wait()? {
                let said = std::fs::read_to_string(&said).unwrap_or_default();
                return Err(io::Error::other(format!("the server ended ({status}):\n{said}")));
            }
            if start.elapsed() > READY_MAX {
                return Err(io::Error::other(format!("nothing listens on {address} after {READY_MAX:?}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time that the process has taken.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.pid())
    }

    /// Asks it to stop, waits, and removes its folder.
    pub async fn stop(mut self) -> io::Result<()> {
        // SAFETY: a signal to our own child, which has not been waited for: its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let start = Instant::now();
        while self.child.try_wait()?.is_none() && start.elapsed() < STOP_MAX {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("ringbench: {} was left behind: {error}", self.dir.display());
        }
    }
}

/// A port of this machine that nothing listened on a moment ago.
pub fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
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

/// User and system time of a process, from the kernel's clock ticks.
pub fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name, which may hold spaces and brackets: count from its end.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: asks for a constant of the system; no memory is involved.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Duration::from_millis((ticks(11) + ticks(12)) * 1000 / per_second)
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
    let stats = std::fs::read_to_string("/proc/diskstats").ok()?;
    stats.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        (number(0) == Some(major.into()) && number(1) == Some(minor.into())).then(|| DiskUse {
            writes: number(7).unwrap_or(0),
            written_bytes: number(9).unwrap_or(0) * 512,
            flushes: number(18).unwrap_or(0),
        })
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_taken_cpu_time_at_some_point() {
        let mut sum = 0u64;
        while cpu_of(std::process::id()).is_zero() {
            sum = (0..1_000_000).fold(sum, |sum, i| sum.wrapping_mul(31).wrapping_add(i));
        }
        assert!(cpu_of(u32::MAX).is_zero(), "{sum}");
    }
}

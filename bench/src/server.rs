//! A server that was started for a case: broker or null, in a fresh folder that goes with it.
//!
//! Owner: ringbench's parent process. Invariant: no server outlives the value that started it, nor the
//! tool itself.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::process;
use crate::progress::say;

const READY_MAX: Duration = Duration::from_secs(120);
const STOP_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Broker,
    Null,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Subject::Broker => "broker",
            Subject::Null => "null",
        }
    }
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its folder is made in here.
    pub dir: PathBuf,
    pub shards: Option<u32>,
    pub partitions: u32,
    /// Bytes of files that null keeps.
    pub keep: u64,
    /// Bytes of records that null keeps in memory, to answer fetches from.
    pub store: u64,
    /// `KEY=VALUE` for the broker.
    pub settings: Vec<String>,
}

pub struct Server {
    pub subject: Subject,
    pub address: SocketAddr,
    /// Everything of it.
    pub dir: PathBuf,
    setup: Setup,
    child: Child,
}

fn failed(subject: Subject, error: &io::Error) -> String {
    format!("{} cannot be started: {error}", subject.name())
}

impl Server {
    /// Starts it and waits until it listens.
    pub async fn start(subject: Subject, setup: &Setup) -> Result<Server, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringbench-{}-{number}-{}", std::process::id(), subject.name());
        let dir = setup.dir.join(name);
        let start = || {
            std::fs::create_dir_all(&dir)?;
            let address = process::free_address()?;
            Ok((address, launch(subject, setup, address, &dir)?))
        };
        let (address, child) = start().map_err(|error| {
            // It may not even have been made.
            let _ = std::fs::remove_dir_all(&dir);
            failed(subject, &error)
        })?;
        let mut server = Server { subject, address, dir, setup: setup.clone(), child };
        server.wait_until_ready().await.map_err(|error| failed(subject, &error))?;
        Ok(server)
    }

    async fn wait_until_ready(&mut self) -> io::Result<()> {
        let start = Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(self.ended(status)));
            }
            if start.elapsed() > READY_MAX {
                let text = format!("nothing listens on {} after {READY_MAX:?}", self.address);
                return Err(io::Error::other(text));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits; its folder stays. A broker that had ended by itself did not stop in order.
    async fn end(&mut self) -> io::Result<()> {
        process::terminate(self.child.id());
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() || self.subject == Subject::Null => return Ok(()),
                Some(status) => return Err(io::Error::other(self.ended(status))),
                None if start.elapsed() > STOP_MAX => {
                    return Err(io::Error::other(format!("it did not stop within {STOP_MAX:?}")));
                }
                None => sleep(LOOK).await,
            }
        }
    }

    fn ended(&self, status: ExitStatus) -> String {
        let said = std::fs::read_to_string(self.dir.join("said")).unwrap_or_default();
        format!("the server ended ({status}):\n{said}")
    }

    /// Stops it in order, and starts it again over the same data with these settings.
    pub async fn restart(&mut self, settings: Vec<String>) -> Result<(), String> {
        self.end().await.map_err(|error| format!("restart: {error}"))?;
        self.setup.settings = settings;
        self.begin_again()?;
        self.wait_until_ready().await.map_err(|error| failed(self.subject, &error))
    }

    /// kill -9, and a new start without waiting until it is ready.
    pub fn kill_and_begin_again(&mut self) -> Result<(), String> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(|error| format!("kill: {error}"))?;
        self.begin_again()
    }

    fn begin_again(&mut self) -> Result<(), String> {
        let child = launch(self.subject, &self.setup, self.address, &self.dir);
        self.child = child.map_err(|error| failed(self.subject, &error))?;
        Ok(())
    }

    /// Stops it in order, and gives what it said in its life; its folder goes.
    pub async fn stop(mut self) -> Result<String, String> {
        self.end().await.map_err(|error| format!("{}: {error}", self.subject.name()))?;
        Ok(std::fs::read_to_string(self.dir.join("said")).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            say(&format!("{} was left behind: {error}", self.dir.display()));
        }
    }
}

/// Starts the process. What it says goes to a file beside its data.
fn launch(subject: Subject, setup: &Setup, address: SocketAddr, dir: &Path) -> io::Result<Child> {
    let mut command = match subject {
        Subject::Broker => {
            let mut command = Command::new(process::beside("ringlog")?);
            command.args(["--set", "log.retention.check.interval.ms=1000"]);
            setup.settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
            if let Some(shards) = setup.shards {
                command.args(["--shards", &shards.to_string()]);
            }
            command
        }
        Subject::Null => {
            let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("serve-null");
            command.args(["--shards", &setup.shards.unwrap_or(cpus).to_string()]);
            command.args(["--partitions", &setup.partitions.to_string()]);
            command.args(["--keep", &setup.keep.to_string()]);
            command.args(["--store", &setup.store.to_string()]);
            command
        }
    };
    let out = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("said"))?;
    command.args(["--listen", &address.to_string()]).arg("--data").arg(dir.join("data"));
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    process::die_together(&mut command);
    command.spawn()
}

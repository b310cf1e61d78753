//! One broker process: started, killed, stopped.
//!
//! Owner: a test. Invariant: no process outlives the value that started it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::client::Client;

const READY_WITHIN: Duration = Duration::from_secs(60);

pub struct Broker {
    pub address: String,
    pub data: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// A folder of its own for a test, on the filesystem of the build folder (it needs O_DIRECT).
pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("broker").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// An address that nobody else uses: each test process has a loopback address of its own, for another one
/// could take a port while its broker is down. The port is below those from which the kernel takes the near
/// end of outgoing connections.
pub fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 | a & 63, b, c);
    let mut addresses = (0..1000).map(|_| format!("{host}:{}", NEXT.fetch_add(1, Ordering::SeqCst)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

impl Broker {
    /// Describes a broker over `data`; nothing runs yet.
    pub fn new(data: &Path, shards: u32, more: &[&str]) -> Broker {
        let more = more.iter().map(|word| word.to_string());
        let arguments = ["--shards".to_owned(), shards.to_string()].into_iter().chain(more).collect();
        let log = data.with_extension("log");
        Broker { address: free_address(), data: data.into(), arguments, log, child: None }
    }

    pub fn set_shards(&mut self, shards: u32) {
        self.arguments[1] = shards.to_string();
    }

    /// Starts and waits until it answers. `false`, with a printed reason, where io_uring is forbidden.
    pub fn start(&mut self) -> bool {
        match self.try_start() {
            Ok(()) => true,
            Err(said) if said.contains("io_uring") => {
                println!("skipped: this machine does not allow io_uring: {said}");
                false
            }
            Err(said) => panic!("the broker did not start: {said}"),
        }
    }

    /// `Err`: it exited, and this is what it said.
    pub fn try_start(&mut self) -> Result<(), String> {
        self.launch();
        let since = Instant::now();
        loop {
            if Client::new(&self.address).ping().is_ok() && self.runs() {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return Err(format!("{status}: {}", self.said()));
            }
            assert!(since.elapsed() < READY_WITHIN, "not ready after {READY_WITHIN:?}: {}", self.symptoms());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts without waiting.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::create(&self.log).unwrap();
        // Another build of the broker, for instance a release build under tests that are not.
        let program = std::env::var("RINGLOG_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_ringlog").into());
        let child = Command::new(program)
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &self.address])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Whether the process that was started last is still there.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// What it printed since its last start.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it said, where its threads wait, and the sockets of its port.
    pub fn symptoms(&self) -> String {
        let mut text = self.said();
        let tasks = self.child.as_ref().map(|child| format!("/proc/{}/task", child.id()));
        for task in tasks.and_then(|tasks| std::fs::read_dir(tasks).ok()).into_iter().flatten().flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            text += &format!("\nthread {} waits in {}", read("comm").trim_end(), read("wchan"));
        }
        let port = self.address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let port = format!(":{:04X} ", port.unwrap_or(0));
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        sockets.lines().filter(|line| line.contains(&port)).for_each(|line| text += &format!("\n{line}"));
        text
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// SIGTERM; it must end well.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let signalled = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(signalled.success());
        let status = child.wait().unwrap();
        assert!(status.success(), "SIGTERM ends with {status}: {}", self.said());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the broker said:\n{}", self.said());
        }
    }
}

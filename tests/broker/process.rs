//! One broker process: started, killed, stopped.
//!
//! Owner: a test. Invariant: no process outlives the value that started it.

use std::net::TcpListener;
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

/// A port that nobody listens on, below those from which the kernel takes the near end of outgoing
/// connections: a client that retries while the broker is down must not take its port.
pub fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 50) as u16 * 200;
    let mut addresses =
        (0..200).map(|_| format!("127.0.0.1:{}", first + NEXT.fetch_add(1, Ordering::SeqCst) % 200));
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
            if Client::new(&self.address).ping().is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return Err(format!("{status}: {}", self.said()));
            }
            assert!(since.elapsed() < READY_WITHIN, "not ready after {READY_WITHIN:?}: {}", self.said());
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

    /// What it printed since its last start.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
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

//! A broker of its own for each test, and `ringctl` to talk to it.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;

use tempfile::TempDir;

pub struct Stage {
    dir: TempDir,
    pub address: String,
    broker: Option<Child>,
}

/// The broker's program, which belongs to another package: `cargo test --workspace` builds it, else we do.
fn broker_program() -> PathBuf {
    static BUILT: Once = Once::new();
    let ringctl = Path::new(env!("CARGO_BIN_EXE_ringctl"));
    let program = ringctl.with_file_name("ringlog");
    BUILT.call_once(|| {
        if program.exists() {
            return;
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "ringlog", "--bin", "ringlog"]);
        if ringctl.parent().is_some_and(|folder| folder.ends_with("release")) {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the broker could not be built");
    });
    program
}

impl Stage {
    /// Starts a broker on an empty folder.
    pub fn start() -> Stage {
        let mut stage = Stage::dark();
        stage.start_broker();
        stage
    }

    /// No broker runs yet.
    pub fn dark() -> Stage {
        // Nobody else takes the port of this process's own loopback address while its broker is down.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let host = std::net::Ipv4Addr::new(127, 64 | a & 63, b, c);
        let address = std::net::TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().to_string();
        // Beside the programs: the system's temporary folder may not take direct I/O.
        let beside = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = tempfile::tempdir_in(beside).unwrap();
        Stage { dir, address, broker: None }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn start_broker(&mut self) {
        let mut child = Command::new(broker_program())
            .args(["--listen", &self.address, "--shards", "2", "--set", "segment.bytes=2MiB"])
            .arg("--set")
            .arg("memory.bytes=256MiB")
            .arg("--data")
            .arg(self.data())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.unwrap().contains("is ready"));
        assert!(ready, "the broker did not start");
        self.broker = Some(child);
    }

    /// kill -9.
    pub fn kill_broker(&mut self) {
        let mut broker = self.broker.take().unwrap();
        broker.kill().unwrap();
        broker.wait().unwrap();
    }

    /// SIGTERM, and the end.
    pub fn stop_broker(&mut self) {
        let mut broker = self.broker.take().unwrap();
        let status = Command::new("kill").arg(broker.id().to_string()).status().unwrap();
        assert!(status.success());
        assert!(broker.wait().unwrap().success(), "a graceful stop exits 0");
    }

    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringctl"));
        command.args(["--broker", &self.address]).args(line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn ringctl(&self, line: &[&str]) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs a command that must succeed; its stdout.
    pub fn ok(&self, line: &[&str]) -> String {
        let output = self.ringctl(line);
        assert!(output.status.success(), "{line:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with exit code 1; its stderr.
    pub fn refused(&self, line: &[&str]) -> String {
        let output = self.ringctl(line);
        assert_eq!(output.status.code(), Some(1), "{line:?}: {}", said(&output));
        said(&output)
    }

    /// Runs a command with this stdin.
    pub fn with_input(&self, line: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().unwrap();
        // Commands with input print little, so nothing waits for us while we write.
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Produces `input`; all of it must be delivered. Gives stdout.
    pub fn produce(&self, line: &[&str], input: &[u8]) -> String {
        let line = [&["produce"], line].concat();
        let output = self.with_input(&line, input);
        assert!(output.status.success(), "{line:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            // It may have ended by itself.
            let _ = broker.kill();
            let _ = broker.wait();
        }
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A stdout that takes nothing.
pub fn full_disk() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

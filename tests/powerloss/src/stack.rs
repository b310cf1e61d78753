//! The filesystem on the loop device on the disk: set up once, taken down and up at every cut.
//!
//! Owner: the harness. Everything lies under one temporary folder, and only what was set up here is
//! taken down.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::{Cut, Disk, Random};
use crate::export;

pub struct Stack {
    disk: Arc<Disk>,
    folder: PathBuf,
    filesystem: String,
    device: Option<String>,
    fuse: Option<fuser::BackgroundSession>,
}

/// Runs a command; its standard output, or the whole story as an error.
pub fn command(words: &[&str]) -> Result<String, String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}: {} {}", words.join(" "), output.status, text(&output.stderr)))
    }
}

impl Stack {
    pub fn new(folder: &Path, filesystem: &str, bytes: u64) -> Stack {
        std::fs::create_dir_all(folder.join("fuse")).expect("a writable folder");
        std::fs::create_dir_all(folder.join("mnt")).expect("a writable folder");
        let medium = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(folder.join("medium"))
            .expect("a writable folder");
        let disk = Arc::new(Disk::new(medium, bytes));
        let fuse = Some(export::mount(disk.clone(), &folder.join("fuse")));
        let mut stack =
            Stack { disk, folder: folder.into(), filesystem: filesystem.into(), device: None, fuse };
        let device = stack.attach();
        command(&[&format!("mkfs.{filesystem}"), "-q", &device]).expect("mkfs");
        stack.mount();
        stack
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.folder.join("mnt")
    }

    fn attach(&mut self) -> String {
        let file = self.folder.join("fuse").join(export::file_name(self.disk.session()));
        let file = file.to_str().expect("a path of ours");
        let device = command(&["losetup", "--find", "--show", file]).expect("a loop device");
        self.device = Some(device.clone());
        device
    }

    fn mount(&self) {
        let device = self.device.as_deref().expect("attached");
        let mountpoint = self.mountpoint();
        let target = mountpoint.to_str().expect("a path of ours");
        command(&["mount", "-t", &self.filesystem, device, target]).expect("the filesystem recovers");
    }

    /// Usually in the middle of things, with writes that no flush has covered; else at any moment.
    pub fn cut(&self, random: &mut Random) -> Cut {
        if random.below(4) > 0 {
            self.disk.arm(1 + random.below(30));
            let deadline = Instant::now() + Duration::from_millis(500);
            while self.disk.is_on() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        self.disk.cut(random)
    }

    /// After a cut, once every process that used the filesystem is gone.
    pub fn restart(&mut self) {
        self.unmount();
        self.disk.power_on();
        self.attach();
        self.mount();
    }

    fn unmount(&mut self) {
        let mountpoint = self.mountpoint();
        let target = mountpoint.to_str().expect("a path of ours");
        for attempt in 0.. {
            match command(&["umount", target]) {
                Ok(_) => break,
                Err(error) if attempt == 50 => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
        if let Some(device) = self.device.take() {
            command(&["losetup", "--detach", &device]).expect("the loop device is ours");
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.device.is_some() {
            self.unmount();
        }
        drop(self.fuse.take());
    }
}

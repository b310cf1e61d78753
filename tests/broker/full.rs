//! A small filesystem filled to the brim: a clear and retriable refusal, reads go on, restarts work
//! while it is full, and a deletion lets produce resume with no one's help.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::client::{Client, Trouble, Writer, batch};
use super::process::{Broker, folder};
use super::rounds;
use ringlog::record::Compression;

const IMAGE_BYTES: u64 = 256 << 20;

/// A filesystem of its own on a loop device.
struct Small {
    mountpoint: PathBuf,
}

impl Small {
    /// `None`, with a printed reason, where mounting is not permitted.
    fn mount(folder: &Path) -> Option<Small> {
        let (image, mountpoint) = (folder.join("image"), folder.join("small"));
        std::fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        std::fs::create_dir(&mountpoint).unwrap();
        let image = image.to_str().unwrap();
        let small = Small { mountpoint };
        let steps =
            [vec!["mkfs.ext4", "-q", image], vec!["mount", "-o", "loop", image, small.mountpoint.to_str()?]];
        for words in steps {
            let output = Command::new(words[0]).args(&words[1..]).output();
            match output {
                Ok(output) if output.status.success() => {}
                other => {
                    println!("skipped: no filesystem of our own: {words:?}: {other:?}");
                    return None;
                }
            }
        }
        Some(small)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mountpoint).output();
    }
}

/// Produces 64 KiB batches until one is refused.
fn fill(client: &mut Client, topic: &str) -> (u64, String) {
    let values = vec!["f".repeat(8000); 8];
    let batch = batch(&values, None, Compression::None);
    for count in 0.. {
        match client.produce(topic, 0, &batch) {
            Ok(_) => assert!(count < IMAGE_BYTES / (60 << 10), "more was taken than fits"),
            Err(Trouble::Refused(failure)) => {
                assert!(failure.code.retriable(), "{failure}");
                assert!(failure.retry_after_ms > 0, "{failure}");
                return (count, failure.text);
            }
            Err(trouble) => panic!("{trouble}"),
        }
    }
    unreachable!("it is refused at some point")
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let folder = folder();
    let Some(small) = Small::mount(folder.path()) else { return };
    let mut broker = Broker::new(&small.mountpoint.join("data"), 2, &[]);
    if !broker.start() {
        return;
    }
    let mut client = Client::new(&broker.address);
    client.create("keep", 1).unwrap();
    client.create("fill", 1).unwrap();
    let mut writer = Writer::new(&broker.address, "keep", 0);
    (0..20).for_each(|_| writer.write(10));
    let (count, text) = fill(&mut client, "fill");
    println!("full after {count} batches of 64 KiB: {text}");
    assert!(text.contains("full") || text.contains("space"), "{text}");
    writer.check();
    for _ in 0..rounds(3).min(10) {
        broker.kill();
        broker.start();
        writer.client.forget();
        client.forget();
        writer.check();
        assert!(client.until(|client| client.read_all("fill", 0)).len() as u64 >= count * 8);
    }
    client.until(|client| client.delete("fill"));
    let since = Instant::now();
    writer.write(7);
    println!("produce resumed {:.1?} after the deletion", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(60));
    writer.check();
    broker.stop();
}

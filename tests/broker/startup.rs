//! What a broker says when it cannot start: each refusal names its cure and exits with a status.

use std::net::TcpListener;

use ringlog::base::crc;

use super::process::{Broker, folder};

/// Starts a broker that must refuse, and gives back what it said.
fn refusal(broker: &mut Broker) -> String {
    broker.try_start().expect_err("it must not start").to_lowercase()
}

#[test]
fn a_taken_port_is_named() {
    let folder = folder();
    let mut broker = Broker::new(&folder.path().join("data"), 1, &[]);
    let taken = TcpListener::bind(&broker.address).unwrap();
    let said = refusal(&mut broker);
    assert!(said.contains(&broker.address) && said.contains("--listen"), "{said}");
    drop(taken);
    broker.start();
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = folder();
    let mut first = Broker::new(&folder.path().join("data"), 1, &[]);
    if !first.start() {
        return;
    }
    let mut second = Broker::new(&folder.path().join("data"), 1, &[]);
    let said = refusal(&mut second);
    assert!(said.contains("in use") && said.contains("--data"), "{said}");
    first.kill();
    assert!(second.start(), "once the first is gone");
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let folder = folder();
    let mut broker = Broker::new(&folder.path().join("data"), 1, &["--set", "retension.ms=5"]);
    let said = refusal(&mut broker);
    assert!(said.contains("retension.ms") && said.contains("retention.ms"), "{said}");
    assert!(!folder.path().join("data").exists(), "a refused start leaves nothing behind");
}

/// Makes the headers of a twin log say version 2, under a right checksum. It is seeded with what
/// only the broker knows, but a checksum's change does not depend on the seed.
fn raise_version(bytes: &mut [u8]) -> usize {
    let checksum = |block: &[u8]| crc::append(crc::crc32c(&block[..12]), &block[16..]);
    let mut changed = 0;
    for block in bytes.chunks_exact_mut(4096).filter(|block| block.starts_with(b"RINGTWIN")) {
        let before = checksum(block);
        block[8] = 2;
        let change = before ^ checksum(block);
        let stored = u32::from_le_bytes([block[12], block[13], block[14], block[15]]);
        block[12..16].copy_from_slice(&(stored ^ change).to_le_bytes());
        changed += 1;
    }
    changed
}

#[test]
fn data_of_a_newer_format_is_refused() {
    let folder = folder();
    let mut broker = Broker::new(&folder.path().join("data"), 1, &[]);
    if !broker.start() {
        return;
    }
    broker.stop();
    let metadata = folder.path().join("data").join("metadata");
    let mut changed = 0;
    for entry in std::fs::read_dir(&metadata).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        changed += raise_version(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(changed > 0, "there is a versioned file in {}", metadata.display());
    let said = refusal(&mut broker);
    assert!(said.contains("version") && said.contains("newer"), "{said}");
}

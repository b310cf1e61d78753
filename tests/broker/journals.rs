//! Data folders that lost a part, limits that are too small, and signals that come early.
//!
//! Owner: the tests.

use std::process::Command;
use std::time::Duration;

use super::process::{Broker, folder};

const SMALL: [&str; 4] = ["--set", "segment.bytes=4MiB", "--set", "memory.bytes=64MiB"];

#[test]
fn a_missing_journal_or_missing_metadata_is_refused_and_can_be_put_back() {
    let folder = folder();
    let data = folder.path().join("data");
    let mut broker = Broker::new(&data, 2, &SMALL);
    if !broker.start() {
        return;
    }
    broker.stop();
    let journal = std::fs::read_dir(data.join("journals")).unwrap().next().unwrap().unwrap().path();
    let away = folder.path().join("away");
    std::fs::rename(&journal, &away).unwrap();
    let said = broker.try_start().unwrap_err();
    assert!(said.contains("is missing") && said.contains("put the folder back"), "{said}");
    std::fs::rename(&away, &journal).unwrap();

    let stray = journal.with_file_name("0123456789abcdef");
    std::fs::create_dir(&stray).unwrap();
    let said = broker.try_start().unwrap_err();
    assert!(said.contains("0123456789abcdef") && said.contains("does not know"), "{said}");
    std::fs::remove_dir(&stray).unwrap();

    let metadata = data.join("metadata");
    std::fs::rename(&metadata, &away).unwrap();
    let said = broker.try_start().unwrap_err();
    assert!(said.contains("there are journals but no metadata"), "{said}");
    // The refused start made no new metadata: nothing hinders that the old ones are put back.
    std::fs::remove_dir(&metadata).unwrap();
    std::fs::rename(&away, &metadata).unwrap();
    assert!(broker.start());
    broker.stop();
}

#[test]
fn a_folder_that_cannot_be_made_is_refused() {
    let folder = folder();
    let data = folder.path().join("data");
    std::fs::write(&data, "a file").unwrap();
    let said = Broker::new(&data, 1, &SMALL).try_start().unwrap_err();
    assert!(said.contains(data.to_str().unwrap()) && said.contains("--data DIR"), "{said}");
}

#[test]
fn too_few_file_descriptors_are_refused() {
    let folder = folder();
    let script = format!(
        "ulimit -n 100; exec {} --data {}",
        env!("CARGO_BIN_EXE_ringlog"),
        folder.path().join("data").display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("too few file descriptors") && said.contains("ulimit -n"), "{said}");
}

#[test]
fn a_signal_during_the_start_is_a_graceful_end() {
    let folder = folder();
    let mut broker = Broker::new(&folder.path().join("data"), 2, &SMALL);
    if !broker.start() {
        return;
    }
    broker.stop();
    // From just after the handler is in place to somewhere in recovery.
    for pause_ms in [20, 40, 80] {
        broker.launch();
        std::thread::sleep(Duration::from_millis(pause_ms));
        broker.stop();
    }
    assert!(broker.start());
    broker.stop();
}

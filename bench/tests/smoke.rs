//! Tiny cases of every command against a real broker: that they end, and say what they promise.
//!
//! Owner: a test. Skipped, with a printed reason, where io_uring is forbidden or the broker was not built.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test of a process waits for it")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

#[path = "../src/promised.rs"]
mod promised;

const RINGBENCH: &str = env!("CARGO_BIN_EXE_ringbench");

/// Small rounds, small files, on the filesystem of the build folder (the broker needs O_DIRECT).
const SMALL: &str = "--duration 300ms --warm-up 100ms --partitions 4 --pairs 1 --shards 2 \
                     --set segment.bytes=16MiB --keep 64MiB --memory 8MiB --json";

/// The lines of JSON that a command prints; `None` where it cannot run at all.
fn run(words: &str) -> Option<Vec<Value>> {
    if !Path::new(RINGBENCH).with_file_name("ringlog").exists() {
        println!("skipped: the broker was not built beside ringbench");
        return None;
    }
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(RINGBENCH)
        .args(words.split_whitespace())
        .arg("--dir")
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && said.contains("io_uring") {
        println!("skipped: this machine does not allow io_uring: {said}");
        return None;
    }
    assert!(output.status.success(), "ringbench {words}: {}: {said}", output.status);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("{name} is no number in {row}"))
}

#[test]
fn small_cases_end_and_say_what_they_promise() {
    for (words, lines) in [
        ("produce --verify", 1),
        ("produce --verify --keys zipf --compression lz4 --producers 3 --size 200", 1),
        ("produce --rate 500 --acks 1", 1),
        ("consume --bytes 4MiB --consumers 2", 1),
        ("consume --bytes 4MiB --cold --budget 64MiB", 1),
        ("prodcons --consumers 2", 1),
        ("latency --rate 300", 1),
        ("latency --one-by-one", 1),
        ("partitions --counts 1,20", 2),
    ] {
        let Some(rows) = run(&format!("{words} {SMALL}")) else { return };
        assert_eq!(rows.len(), lines, "{words}");
        for row in rows {
            for key in promised::KEYS {
                assert!(row.get(key).is_some(), "{words}: no {key} in {row}");
            }
            assert_eq!(number(&row, "errors"), 0.0, "{words}: {row}");
            // A disk that is busy elsewhere may acknowledge nothing within so short a window.
            let produces = !words.starts_with("consume");
            let counted = number(&row, "records_per_second") > 0.0;
            assert!(counted || produces, "{words}: {row}");
            let is_timed = counted && produces;
            assert!(!is_timed || number(&row, "p50_us") <= number(&row, "max_us"), "{words}: {row}");
            assert!(row.get("not_verified").is_none(), "{words}: {row}");
            assert!(number(&row, "broker_resident_bytes_max") > 1e6, "{words}: {row}");
        }
    }
}

#[test]
fn the_disk_is_measured() {
    let Some(rows) = run("disk --duration 100ms --json") else { return };
    for name in ["write_bytes_per_second", "append_zeroed_p50_us", "loopback_bytes_per_second"] {
        assert!(number(&rows[0], name) > 0.0, "{}", rows[0]);
    }
}

#[test]
fn an_interruption_takes_the_files_along() {
    let Some(_) = run("disk --duration 50ms --json") else { return };
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let names = || std::fs::read_dir(folder.path()).unwrap().flatten().count();
    let mut tool = Command::new(RINGBENCH);
    let mut tool = tool.args(["disk", "--duration", "20s", "--dir"]).arg(folder.path()).spawn().unwrap();
    while names() == 0 && tool.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let told = Command::new("kill").args(["-INT", &tool.id().to_string()]).status().unwrap();
    let ended = tool.wait().unwrap();
    assert!(told.success() && !ended.success(), "{ended}");
    assert_eq!(names(), 0, "left behind");
}

#[test]
fn the_suite_lists_its_groups() {
    let Some(_) = run("disk --duration 50ms --json") else { return };
    let output = Command::new(RINGBENCH).args(["suite", "--list", "--only", "produce"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "produce-1KiB\nproduce-100B\n");
}

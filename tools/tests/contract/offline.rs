//! verify, dump and repair on a stopped broker's folder.

use std::path::{Path, PathBuf};

use crate::stage::{Stage, full_disk, said};

/// Bits flipped in each file.
const TURNS: usize = 4;

/// A stopped broker's folder with 2000 records in 4 partitions.
fn filled() -> Stage {
    let mut stage = Stage::start();
    stage.ok(&["topic", "create", "t", "--partitions", "4"]);
    let input: String = (0..2000).map(|number| format!("{number}:record number {number}\n")).collect();
    stage.produce(&["t", "--key-separator", ":"], input.as_bytes());
    stage.stop_broker();
    stage
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1 << (byte % 8);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_folder_that_was_just_stopped_is_clean() {
    let stage = filled();
    let data = stage.data();
    let output = stage.ringctl(&["verify", data.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("clean\n"));
    let repair = stage.ringctl(&["repair", data.to_str().unwrap(), "--accept-loss"]);
    assert!(repair.status.success() && said(&repair).contains("nothing to repair"), "{}", said(&repair));
    let dump = stage.ok(&["dump", data.to_str().unwrap()]);
    for word in ["topic t id", "frame Block", "run at", "batch offsets", "checkpoint", "manifest"] {
        assert!(dump.contains(word), "{word} is not in the dump");
    }
}

#[test]
fn a_running_broker_is_not_disturbed() {
    let stage = Stage::start();
    let data = stage.data();
    assert!(stage.refused(&["verify", data.to_str().unwrap()]).contains("stop it first"));
    assert!(stage.refused(&["repair", data.to_str().unwrap(), "--accept-loss"]).contains("stop it first"));
    assert!(stage.refused(&["verify", "/"]).contains("not a data folder"));
}

#[test]
fn one_flipped_bit_anywhere_is_named_or_said_to_be_unused() {
    let stage = filled();
    let data = stage.data();
    let mut seed = 7usize;
    for path in files(&data) {
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        let name = path.strip_prefix(&data).unwrap().to_str().unwrap().to_owned();
        if length == 0 || name == "LOCK" {
            continue;
        }
        // The begin of a file holds what matters most; the rest is sampled.
        for turn in 0..TURNS {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bound = if turn < TURNS - 1 { length.min(64 << 10) } else { length };
            let byte = (seed >> 17) % bound;
            flip(&path, byte);
            let output = stage.ringctl(&["verify", data.to_str().unwrap()]);
            flip(&path, byte);
            let text = String::from_utf8_lossy(&output.stdout);
            let is_named = text.lines().any(|line| names(line, &name, byte));
            assert!(is_named, "byte {byte} of {name} is not named:\n{text}{}", said(&output));
            let is_damage = text.lines().any(|line| line.starts_with("damage"));
            assert_eq!(output.status.code(), Some(i32::from(is_damage)), "{text}");
        }
    }
}

/// Whether a line of `verify` names this byte of this file.
fn names(line: &str, file: &str, byte: usize) -> bool {
    let Some(rest) = line.split_once(' ').map(|(_, rest)| rest.trim_start()) else { return false };
    let Some(rest) = rest.strip_prefix(file) else {
        return rest.starts_with("metadata:") && file.starts_with("metadata");
    };
    let Some((place, _)) = rest.split_once(':') else { return false };
    match place.trim().split_once(' ') {
        Some(("byte", at)) => at.parse() == Ok(byte),
        Some(("bytes", range)) => range.split_once("..").is_some_and(|(start, end)| {
            (start.parse().unwrap_or(usize::MAX)..end.parse().unwrap_or(0)).contains(&byte)
        }),
        _ => true,
    }
}

#[test]
fn a_damaged_record_is_never_served_and_repair_gives_up_only_that() {
    let mut stage = filled();
    let data = stage.data();
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    let needle = b"record number 1000";
    let (path, at) = files(&data)
        .into_iter()
        .filter(is_segment)
        .find_map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            bytes.windows(needle.len()).position(|window| window == needle).map(|at| (path, at))
        })
        .unwrap();
    flip(&path, at);
    let data = data.to_str().unwrap().to_owned();
    let verify = stage.ringctl(&["verify", &data]);
    assert_eq!(verify.status.code(), Some(1));
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(text.contains(&format!("byte {at}: bit")) && text.contains(" of t-"), "{text}");

    stage.start_broker();
    let output = stage.ringctl(&["consume", "t"]);
    assert_eq!(output.status.code(), Some(1), "damaged records are not passed over in silence");
    let found = String::from_utf8(output.stdout).unwrap();
    assert!(found.lines().all(|line| line.starts_with("record number ")), "nothing damaged is served");
    assert!(!found.contains("record number 1000\n") && found.lines().count() > 1000);
    stage.stop_broker();

    assert!(stage.refused(&["repair", &data]).contains("--accept-loss"));
    let output = stage.command(&["repair", &data, "--accept-loss"]).stdout(full_disk()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "what cannot be said is not given up");
    assert!(said(&output).contains("nothing was changed"), "{}", said(&output));
    let lost = stage.ok(&["repair", &data, "--accept-loss"]);
    assert!(lost.starts_with("damage") && lost.contains("lost: topic t partition"), "{lost}");
    let verify = stage.ringctl(&["verify", &data]);
    assert!(verify.status.success(), "what was given up is no damage any more");
    stage.start_broker();
    let repaired = stage.ok(&["consume", "t"]);
    assert_eq!(repaired.lines().count(), found.lines().count());
}

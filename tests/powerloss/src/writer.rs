//! The harness checks itself: a program that appends to a file, flushes, and says so, loses nothing;
//! the same without the flush must be caught.
//!
//! Owner: the harness.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Options;
use crate::disk::Random;
use crate::stack::Stack;

const RECORD_BYTES: u64 = 4096;

pub fn run(options: &Options) {
    let folder = PathBuf::from(options.text("folder", "/tmp/powerloss"));
    let mut random = Random::new(options.number("seed", 1));
    let mut stack = Stack::new(&folder, &options.text("filesystem", "ext4"), 1 << 30);
    let flush = options.text("flush", "yes");
    let mut lost = 0;
    for round in 0..options.number("cuts", 20) {
        let file = stack.mountpoint().join(format!("log-{round}"));
        let file = file.to_str().expect("a path of ours").to_owned();
        let program = std::env::current_exe().expect("our own path");
        let mut child = Command::new(program)
            .args(["writer-child", &file, &flush])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the writer starts");
        let acknowledged = Arc::new(AtomicU64::new(0));
        let count = acknowledged.clone();
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                count.store(line.parse().expect("a number"), Ordering::SeqCst);
            }
        });
        std::thread::sleep(Duration::from_millis(100 + random.below(400)));
        let cut = stack.cut(&mut random);
        let _ = child.kill();
        let _ = child.wait();
        reader.join().expect("the reader ends with the writer");
        stack.restart();
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        let missing = (1..=acknowledged).filter(|number| !holds(&file, *number)).count();
        lost += missing;
        let (writes, torn) = (cut.writes, cut.torn);
        println!(
            "cut {round}: {writes} unflushed writes, {torn} torn; {acknowledged} acknowledged, {missing} lost"
        );
    }
    assert_eq!(lost > 0, flush == "no", "{lost} lost with flush {flush}");
    println!("as it should be: {lost} lost with flush {flush}");
}

fn holds(file: &str, number: u64) -> bool {
    let Ok(file) = std::fs::File::open(file) else { return false };
    let mut record = [0; RECORD_BYTES as usize];
    let read = file.read_exact_at(&mut record, (number - 1) * RECORD_BYTES);
    read.is_ok() && record == content(number)
}

fn content(number: u64) -> [u8; RECORD_BYTES as usize] {
    let mut record = [0; RECORD_BYTES as usize];
    record.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number.to_le_bytes()));
    record
}

pub fn child(path: &str, flush: bool) {
    let file = std::fs::File::create(path).expect("a new file");
    if flush {
        let folder = PathBuf::from(path);
        let folder = std::fs::File::open(folder.parent().expect("a folder")).expect("the folder");
        folder.sync_all().expect("the entry lasts");
    }
    let mut out = std::io::stdout();
    for number in 1.. {
        let written = file.write_all_at(&content(number), (number - 1) * RECORD_BYTES);
        if written.and_then(|()| if flush { file.sync_data() } else { Ok(()) }).is_err() {
            break;
        }
        if writeln!(out, "{number}").and_then(|()| out.flush()).is_err() {
            break;
        }
        if !flush {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

//! Power loss on a real filesystem: cuts the power under a running broker, many times, sometimes
//! again while it recovers, and checks after each cut that nothing acknowledged is lost.
//!
//! ```text
//! broker -> ext4 or xfs -> loop device -> FUSE file -> disk with a volatile write cache (disk.rs)
//! ```
//!
//! Needs root, FUSE and the mkfs programs. `powerloss --help` lists the options; README.md, "Power
//! loss", has the command. `powerloss writer` checks the harness itself: a small program that flushes
//! before it acknowledges loses nothing, and one that does not is caught.

// The harness stands outside of the broker's world.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod broker;
mod disk;
mod export;
mod load;
mod stack;
mod writer;

use std::collections::BTreeMap;

/// `--name value` pairs.
pub struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(words: &[String]) -> Options {
        let pairs = words.chunks(2).map(|pair| match pair {
            [name, value] if name.starts_with("--") => (name[2..].to_owned(), value.clone()),
            _ => panic!("options are pairs: --name value\n{HELP}"),
        });
        Options(pairs.collect())
    }

    fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).cloned().unwrap_or(default.into())
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.0.get(name).map_or(default, |text| text.parse().expect("a number"))
    }
}

const HELP: &str = "\
powerloss broker [--cuts 100] [--filesystem ext4|xfs] [--seed 1] [--folder DIR] [--shards 2]
                 [--ringlog PROGRAM] [--ringctl PROGRAM] [--listen ADDR:PORT]
powerloss writer [--cuts 20] [--filesystem ext4|xfs] [--seed 1] [--folder DIR] [--flush yes|no]";

fn main() {
    // Not unwound: the end of a stack waits for its FUSE thread, which waits for what is still mounted.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        eprintln!("powerloss: failed; what it mounted stays to be looked at (mount, losetup --list)");
        std::process::exit(1);
    }));
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("broker") => broker::run(&Options::parse(&words[1..])),
        Some("writer") => writer::run(&Options::parse(&words[1..])),
        Some("writer-child") => writer::child(&words[1], words[2] == "yes"),
        _ => println!("{HELP}"),
    }
}

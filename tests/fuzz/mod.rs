//! Hostile bytes against every decoder: whatever comes in, no panic, and no allocation beyond ten
//! times the input and a constant.
//!
//! Valid samples are made, then flipped, cut, spliced and filled with edge values, and where a format
//! carries a checksum it is set right again, so that the mutation reaches what lies behind it. Every
//! input depends only on the seed and its number; a failure prints the command that replays it.
//!
//! 20,000 inputs for each target in an ordinary test run; the full run:
//! `RINGLOG_FUZZ_INPUTS=1000000 cargo test --release --test tests fuzz -- --nocapture`

mod batch;
mod config;
mod disk;
mod metadata;
mod twin;
mod wire;

use crate::allocations::peak_of;
use std::panic::{AssertUnwindSafe, catch_unwind};

const INPUTS: u64 = 20_000;

/// xorshift64*: the same numbers in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, index: u64) -> Random {
        let mixed = (seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Random(mixed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    pub fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// One decoder under fire.
pub struct Target {
    pub name: &'static str,
    /// A valid input, and different ones from call to call.
    pub sample: fn(&mut Random) -> Vec<u8>,
    /// Sets the checksums of a mutated sample right, if the format has any.
    pub reseal: fn(&mut [u8]),
    /// Decodes; true if the bytes were accepted.
    pub decode: fn(&[u8]) -> bool,
}

const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// Anywhere; in inputs of several disk blocks often near the start of one, where structures begin.
fn place(random: &mut Random, count: usize) -> usize {
    const BLOCK_BYTES: usize = 4096;
    if count > BLOCK_BYTES && random.flip() {
        random.below(count / BLOCK_BYTES) * BLOCK_BYTES + random.below(64)
    } else {
        random.below(count)
    }
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..1 + random.below(4) {
        let at = place(random, bytes.len());
        match random.below(8) {
            _ if bytes.is_empty() => bytes.push(random.next() as u8),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let (from, count) = (random.below(bytes.len()), random.below(64));
                let piece = bytes[from..(from + count).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let end = (at + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let noise_bytes = random.below(32);
                let noise = random.bytes(noise_bytes);
                bytes.extend(noise);
            }
            kind => {
                // An edge value over 1, 2, 4 or 8 bytes, in either order.
                let width = 1 << random.below(4);
                let value = EDGES[random.below(EDGES.len())];
                let mut edge = value.to_le_bytes()[..width].to_vec();
                if kind == 7 {
                    edge.reverse();
                }
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
        }
    }
}

fn input(target: &Target, random: &mut Random) -> Vec<u8> {
    match random.below(16) {
        0 => {
            let count = random.below(300);
            random.bytes(count)
        }
        1 => (target.sample)(random),
        _ => {
            let mut bytes = (target.sample)(random);
            mutate(random, &mut bytes);
            if random.flip() {
                (target.reseal)(&mut bytes);
            }
            bytes
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs a target over its inputs. `constant_bytes` is what its decoder may take beyond ten times the
/// input: error texts, a first buffer. Valid samples must be accepted; mutations must do no harm.
pub fn run(target: &Target, constant_bytes: usize) {
    let seed = number("RINGLOG_FUZZ_SEED").unwrap_or(1);
    let count = number("RINGLOG_FUZZ_INPUTS").unwrap_or(INPUTS);
    let range = number("RINGLOG_FUZZ_ONLY").map_or(0..count, |index| index..index + 1);
    let mut accepted = 0u64;
    let mut peak_max = 0;
    for index in range {
        let mut random = Random::new(seed, index);
        let bytes = input(target, &mut random);
        let bound = bytes.len() * 10 + constant_bytes;
        let outcome = catch_unwind(AssertUnwindSafe(|| peak_of(|| (target.decode)(&bytes))));
        let trouble = match outcome {
            Ok((_, peak)) if peak > bound => Some(format!("held {peak} bytes, more than {bound}")),
            Ok((good, peak)) => {
                accepted += u64::from(good);
                peak_max = peak_max.max(peak);
                None
            }
            Err(_) => Some("panicked".into()),
        };
        if let Some(trouble) = trouble {
            let hex: String = bytes.iter().take(2000).map(|byte| format!("{byte:02x}")).collect();
            panic!(
                "{} {trouble}\ninput of {} bytes: {hex}\nreplay: RINGLOG_FUZZ_SEED={seed} RINGLOG_FUZZ_ONLY={index} \
                 cargo test --test tests fuzz::{} -- --nocapture",
                target.name,
                bytes.len(),
                target.name
            );
        }
    }
    for index in 0..100 {
        let bytes = (target.sample)(&mut Random::new(seed, index));
        assert!((target.decode)(&bytes), "{}: its own sample {index} was refused", target.name);
    }
    println!("{}: {count} inputs, {accepted} accepted, at most {peak_max} bytes held", target.name);
}

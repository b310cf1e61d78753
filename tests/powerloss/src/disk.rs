//! A disk with a volatile write cache: what was not flushed may be lost, in any order, in pieces.
//!
//! Owner: the harness; the FUSE side writes, the harness cuts. Invariant: after a cut the disk holds
//! everything that a completed flush covered, and of every other write any subset of its sectors.
//! Requests of a session from before the cut fail for ever, so that no dying filesystem writes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

const PAGE_BYTES: u64 = 4096;
const SECTOR_BYTES: usize = 512;
/// A real cache is small: beyond this the oldest writes reach the medium by themselves.
const CACHE_BYTES_MAX: usize = 64 << 20;

pub struct Disk {
    pub bytes: u64,
    state: Mutex<State>,
}

struct State {
    /// What survives.
    medium: File,
    /// Unflushed writes, oldest first.
    writes: Vec<(u64, Vec<u8>)>,
    writes_bytes: usize,
    /// What a reader sees where it differs from the medium.
    pages: BTreeMap<u64, Box<[u8]>>,
    session: u64,
    is_on: bool,
    /// Power goes with the n-th write from now.
    writes_left: Option<u64>,
}

/// What a cut did.
#[derive(Default)]
pub struct Cut {
    pub writes: usize,
    pub lost: usize,
    pub torn: usize,
}

pub struct PoweredOff;

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

impl Disk {
    pub fn new(medium: File, bytes: u64) -> Disk {
        medium.set_len(bytes).expect("space for the medium");
        let state = State {
            medium,
            writes: Vec::new(),
            writes_bytes: 0,
            pages: BTreeMap::new(),
            session: 0,
            is_on: true,
            writes_left: None,
        };
        Disk { bytes, state: Mutex::new(state) }
    }

    pub fn session(&self) -> u64 {
        self.state.lock().expect("no holder panics").session
    }

    fn on<T>(&self, session: u64, work: impl FnOnce(&mut State) -> T) -> Result<T, PoweredOff> {
        let mut state = self.state.lock().expect("no holder panics");
        if !state.is_on || state.session != session { Err(PoweredOff) } else { Ok(work(&mut state)) }
    }

    pub fn read(&self, session: u64, at: u64, bytes: usize) -> Result<Vec<u8>, PoweredOff> {
        let bytes = bytes.min(self.bytes.saturating_sub(at) as usize);
        self.on(session, |state| state.read(at, bytes))
    }

    pub fn write(&self, session: u64, at: u64, data: &[u8]) -> Result<(), PoweredOff> {
        self.on(session, |state| state.write(at, data))
    }

    pub fn flush(&self, session: u64) -> Result<(), PoweredOff> {
        self.on(session, |state| {
            let writes = std::mem::take(&mut state.writes);
            writes.iter().for_each(|(at, data)| state.settle(*at, data));
            state.pages.clear();
            state.writes_bytes = 0;
        })
    }

    /// Lets the power go with the n-th write from now, before any flush that would cover it.
    pub fn arm(&self, writes: u64) {
        self.state.lock().expect("no holder panics").writes_left = Some(writes);
    }

    pub fn is_on(&self) -> bool {
        self.state.lock().expect("no holder panics").is_on
    }

    /// The power goes, if it has not: of each unflushed write nothing, all, or some sectors survive.
    pub fn cut(&self, random: &mut Random) -> Cut {
        let mut state = self.state.lock().expect("no holder panics");
        state.is_on = false;
        state.writes_left = None;
        let writes = std::mem::take(&mut state.writes);
        state.pages.clear();
        state.writes_bytes = 0;
        let mut cut = Cut { writes: writes.len(), ..Cut::default() };
        // From "everything is lost" to "nothing is", drawn anew for each cut.
        let kept_in_8 = random.below(9);
        for (at, data) in writes {
            if random.below(4) == 0 {
                cut.torn += 1;
                for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                    if random.below(2) == 0 {
                        state.settle(at + (index * SECTOR_BYTES) as u64, sector);
                    }
                }
            } else if random.below(8) < kept_in_8 {
                state.settle(at, &data);
            } else {
                cut.lost += 1;
            }
        }
        cut
    }

    /// Power returns; a new session begins.
    pub fn power_on(&self) -> u64 {
        let mut state = self.state.lock().expect("no holder panics");
        state.is_on = true;
        state.session += 1;
        state.session
    }
}

impl State {
    fn settle(&self, at: u64, data: &[u8]) {
        self.medium.write_all_at(data, at).expect("the medium takes writes");
    }

    fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.medium.read_exact_at(&mut out, at).expect("the medium is readable");
        let end = at + bytes as u64;
        for (page, data) in self.pages.range(at / PAGE_BYTES..end.div_ceil(PAGE_BYTES)) {
            let start = (page * PAGE_BYTES).max(at);
            let stop = ((page + 1) * PAGE_BYTES).min(end);
            let from = (start - page * PAGE_BYTES) as usize;
            let count = (stop - start) as usize;
            out[(start - at) as usize..][..count].copy_from_slice(&data[from..from + count]);
        }
        out
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        let end = at + data.len() as u64;
        for page in at / PAGE_BYTES..end.div_ceil(PAGE_BYTES) {
            let medium = &self.medium;
            let cached = self.pages.entry(page).or_insert_with(|| {
                let mut data = vec![0; PAGE_BYTES as usize];
                medium.read_exact_at(&mut data, page * PAGE_BYTES).expect("the medium is readable");
                data.into()
            });
            let start = (page * PAGE_BYTES).max(at);
            let stop = ((page + 1) * PAGE_BYTES).min(end);
            let to = (start - page * PAGE_BYTES) as usize;
            let count = (stop - start) as usize;
            cached[to..to + count].copy_from_slice(&data[(start - at) as usize..][..count]);
        }
        if let Some(left) = &mut self.writes_left {
            *left = left.saturating_sub(1);
            self.is_on = *left > 0;
        }
        self.writes.push((at, data.to_vec()));
        self.writes_bytes += data.len();
        if self.writes_bytes > CACHE_BYTES_MAX {
            // Their pages stay cached: newer writes may cover the same place.
            let oldest: Vec<_> = self.writes.drain(..self.writes.len() / 2).collect();
            for (at, data) in oldest {
                self.settle(at, &data);
                self.writes_bytes -= data.len();
            }
        }
    }
}

//! A world for one machine and a fake broker: virtual time, a seeded network that delays and
//! cuts.
//!
//! Floor 5, tests only. Bytes that were sent before a cut may still reach the broker, after the
//! client has long given up the connection: the case that idempotence is about.

pub mod broker;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::session::{Action, Event, LinkId, Machine, Millis};
use crate::wire::{FRAME_BYTES_MAX, FrameReader, Header};
use broker::{Answer, FakeBroker, Session};

pub struct World<M> {
    pub now: Millis,
    pub machine: M,
    pub broker: FakeBroker,
    pub random: Random,
    /// One in so many deliveries cuts its connection; 0: none.
    pub cut_every: u64,
    pub latency_ms_max: u64,
    /// What a socket takes in a ms; 0: everything at once.
    pub socket_bytes_per_ms: u64,
    /// Nobody can connect, and all connections are cut.
    pub is_down: bool,
    /// The broker's answers get lost.
    pub is_mute: bool,
    links: BTreeMap<LinkId, Wire>,
    /// Cut or closed for the client.
    dead: BTreeSet<LinkId>,
    agenda: BTreeMap<(Millis, u64), Happening>,
    sequence: u64,
}

struct Wire {
    session: Session,
    frames: FrameReader,
    preface: bool,
    replies: FrameReader,
    /// Bytes in flight keep their order.
    to_broker: Millis,
    written: Millis,
    to_client: Millis,
    parked: Vec<(Millis, Header, Bytes)>,
}

enum Happening {
    Connected(LinkId),
    ToBroker(LinkId, Vec<u8>),
    ToClient(LinkId, Vec<u8>),
    Written(LinkId, usize),
    Closed(LinkId),
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl<M: Machine> World<M> {
    pub fn new(machine: M, broker: FakeBroker, seed: u64) -> World<M> {
        World {
            now: 1,
            machine,
            broker,
            random: Random(seed),
            cut_every: 0,
            latency_ms_max: 3,
            socket_bytes_per_ms: 0,
            is_down: false,
            is_mute: false,
            links: BTreeMap::new(),
            dead: BTreeSet::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// One round: the machine acts, then time moves to whatever comes next, at most `until`.
    /// False if nothing is left to happen before.
    pub fn step(&mut self, until: Millis) -> bool {
        self.machine.handle_timeout(self.now);
        self.act();
        let event = self.agenda.keys().next().map(|(at, _)| *at);
        let parked = self.links.values().flat_map(|wire| wire.parked.iter().map(|(at, ..)| *at)).min();
        let timeout = self.machine.poll_timeout();
        let Some(next) = [event, parked, timeout].into_iter().flatten().min().filter(|at| *at <= until)
        else {
            if until < Millis::MAX {
                self.now = self.now.max(until);
            }
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let happening = entry.remove();
            self.happen(happening);
            self.act();
        }
        self.unpark();
        self.machine.handle_timeout(self.now);
        self.act();
        true
    }

    pub fn run_until(&mut self, until: Millis) {
        while self.step(until) {}
    }

    /// Runs until `is_done`, with a bound that only a hang reaches.
    pub fn run_while(&mut self, mut goes_on: impl FnMut(&mut World<M>) -> bool) {
        for _ in 0..2_000_000 {
            if !goes_on(self) {
                return;
            }
            let happened = self.step(Millis::MAX);
            assert!(happened || !goes_on(self), "hangs at {} ms: nothing is going to happen", self.now);
        }
        panic!("no end after two million steps, at {} ms", self.now);
    }

    pub fn cut_all(&mut self) {
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.cut(link);
        }
    }

    fn cut(&mut self, link: LinkId) {
        if self.dead.insert(link) {
            self.plan(self.now, Happening::Closed(link));
        }
    }

    fn plan(&mut self, at: Millis, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), happening);
    }

    fn latency(&mut self) -> Millis {
        self.random.below(self.latency_ms_max + 1)
    }

    fn act(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Connect { link, .. } => {
                    let wire = Wire {
                        session: Session::default(),
                        frames: FrameReader::new(FRAME_BYTES_MAX),
                        preface: false,
                        replies: FrameReader::new(64 << 20),
                        to_broker: 0,
                        written: 0,
                        to_client: 0,
                        parked: Vec::new(),
                    };
                    self.links.insert(link, wire);
                    let at = self.now + self.latency();
                    if self.is_down {
                        self.dead.insert(link);
                        self.plan(at, Happening::Closed(link));
                    } else {
                        self.plan(at, Happening::Connected(link));
                    }
                }
                Action::Send { link, head, body } => {
                    let bytes = [&head[..], &body[..]].concat();
                    let at = self.now + self.latency();
                    if self.dead.contains(&link) {
                        continue;
                    }
                    let takes = (bytes.len() as u64).checked_div(self.socket_bytes_per_ms).unwrap_or(0);
                    let wire = self.links.get_mut(&link).expect("the machine connected it");
                    wire.written = wire.written.max(self.now) + takes;
                    wire.to_broker = wire.to_broker.max(at + takes).max(wire.written);
                    let (at, written) = (wire.to_broker, wire.written);
                    self.plan(written, Happening::Written(link, bytes.len()));
                    self.plan(at, Happening::ToBroker(link, bytes));
                }
                Action::Close { link } => {
                    self.dead.insert(link);
                }
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        if self.cut_every > 0
            && self.random.below(self.cut_every) == 0
            && let Happening::ToBroker(link, _) | Happening::ToClient(link, _) = &happening
        {
            self.cut(*link);
        }
        match happening {
            Happening::Connected(link) if !self.dead.contains(&link) => {
                self.machine.handle_event(self.now, Event::Connected { link });
            }
            Happening::Written(link, bytes) if !self.dead.contains(&link) => {
                self.machine.handle_event(self.now, Event::Written { link, bytes });
            }
            Happening::Closed(link) => {
                self.machine.handle_event(self.now, Event::Closed { link, reason: "cut".into() });
            }
            // What was sent may arrive although the client thinks that the connection is gone.
            Happening::ToBroker(link, bytes) if !self.is_down => self.serve(link, &bytes),
            Happening::ToClient(link, bytes) if !self.dead.contains(&link) && !self.is_mute => {
                let wire = self.links.get_mut(&link).expect("it was connected");
                wire.replies.push(&bytes);
                let next = wire.replies.next().expect("the fake broker sends frames");
                let (header, body) = next.expect("each delivery is a whole frame");
                self.machine.handle_event(self.now, Event::Frame { link, header, body });
            }
            _ => {}
        }
    }

    fn serve(&mut self, link: LinkId, bytes: &[u8]) {
        let wire = self.links.get_mut(&link).expect("it was connected");
        wire.frames.push(bytes);
        wire.preface = wire.preface || wire.frames.take_preface().expect("our preface");
        let mut requests = Vec::new();
        while let Some(frame) = wire.frames.next().expect("well-formed frames") {
            requests.push(frame);
        }
        for (header, body) in requests {
            self.serve_one(link, header, body, false);
        }
    }

    fn serve_one(&mut self, link: LinkId, header: Header, body: Bytes, is_late: bool) {
        let wire = self.links.get_mut(&link).expect("it was connected");
        match self.broker.handle(&mut wire.session, &header, &body, is_late) {
            Answer::Now(bytes) => {
                let at = self.now + self.latency();
                let wire = self.links.get_mut(&link).expect("it was connected");
                wire.to_client = wire.to_client.max(at);
                let at = wire.to_client;
                self.plan(at, Happening::ToClient(link, bytes));
            }
            Answer::Park(wait_ms) => wire.parked.push((self.now + Millis::from(wait_ms), header, body)),
            Answer::None => {}
        }
    }

    /// Long polls: answered when there is news, or at the latest when their time is up.
    fn unpark(&mut self) {
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            let wire = self.links.get_mut(&link).expect("just listed");
            let parked = std::mem::take(&mut wire.parked);
            if self.dead.contains(&link) {
                continue;
            }
            for (until, header, body) in parked {
                let before = self.links[&link].parked.len();
                self.serve_one(link, header, body, until <= self.now);
                // Parked again: its deadline stays.
                let wire = self.links.get_mut(&link).expect("just listed");
                if wire.parked.len() > before {
                    wire.parked[before].0 = until;
                }
            }
        }
    }
}

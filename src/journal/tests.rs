//! A journal on a disk whose flushes lie.
//!
//! Floor 3. Owner: the simulated world.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::{Budget, Growth, Journal, Loss, OpenError, Replay, ReplayedBlock, SEGMENT_BYTES_MIN};
use crate::base::crc::crc32c;
use crate::format::checkpoint::Checkpoint;
use crate::format::frame::{FrameKind, Part};
use crate::format::mark::LaneEnd;
use crate::model::{JournalId, LaneId, Position};
use crate::rt::Rt;
use crate::rt::local::Event;
use crate::rt::sim::{CrashKind, Faults, Simulation, Stop};

const ID: JournalId = JournalId(7);

/// The marks that a recovery finds.
#[derive(Default)]
struct Marks {
    positions: Vec<Position>,
    is_told: Rc<Cell<bool>>,
}

impl Replay for Marks {
    fn checkpoint(&mut self, _: Checkpoint) {}
    fn block(&mut self, _: &ReplayedBlock<'_>) {}
    fn hole(&mut self) {}
    fn mark(&mut self, ends: &[LaneEnd], _: bool) {
        self.positions.extend(ends.iter().map(|end| end.position));
        self.is_told.set(true);
    }
}

async fn open(rt: &Rt, marks: &mut Marks) -> Result<Rc<Journal>, OpenError> {
    let folder = rt.create_folder(Path::new("/data")).await.expect("a folder");
    let budget = Budget { tail_bytes: 1 << 20, index_bytes: 1 << 20 };
    Journal::open(rt, &folder, ID, budget, Loss::Refuse, marks).await.map(|(journal, _)| journal)
}

/// Whether the mark became durable.
async fn mark(journal: &Rc<Journal>, position: Position) -> bool {
    let (done, is_durable) = (Event::new(), Rc::new(Cell::new(false)));
    let told = (done.clone(), is_durable.clone());
    let then = Box::new(move |result: Result<(), _>| {
        told.1.set(result.is_ok());
        told.0.notify();
    });
    assert!(journal.mark(&[LaneEnd { lane: LaneId(0), position, checksum: 0 }], then));
    done.wait().await;
    is_durable.get()
}

/// After a flush that failed the next one succeeds and does nothing: what a start relied on would go
/// with the next power cut, were it not written again.
#[test]
fn what_was_recovered_survives_a_flush_that_lied() {
    let mut kept = 0;
    for seed in 0..200 {
        let simulation = Simulation::new(seed, Faults::default(), false);
        let machine = simulation.machine(8 << 20);
        let is_made = Rc::new(Cell::new(false));
        let told = is_made.clone();
        let process = simulation.program(machine, |rt| async move {
            let folder = rt.create_folder(Path::new("/data")).await.unwrap();
            Journal::create(&rt, &folder, ID, SEGMENT_BYTES_MIN).await.unwrap();
            let journal = open(&rt, &mut Marks::default()).await.unwrap();
            assert!(mark(&journal, 1).await);
            told.set(true);
            rt.sleep(Duration::from_millis(1)).await;
            assert!(!mark(&journal, 2).await);
        });
        simulation.run_until(&is_made);
        simulation.set_faults(|faults| faults.write_error_ppm = 1_000_000);
        assert_eq!(simulation.run_to_end(process), Stop::Done);
        simulation.set_faults(|faults| faults.write_error_ppm = 0);

        // The first start fails when it flushes the segments, the second one is lied to, then comes the cut.
        let found = Rc::new(RefCell::new(Vec::new()));
        for start in 0..3 {
            let (found, is_told) = (found.clone(), Rc::new(Cell::new(false)));
            let mut marks = Marks { is_told: is_told.clone(), ..Marks::default() };
            let process = simulation.program(machine, |rt| async move {
                let is_open = open(&rt, &mut marks).await.is_ok();
                found.borrow_mut().push((is_open, marks.positions));
            });
            simulation.run_until(&is_told);
            simulation.set_faults(|faults| faults.flush_error_ppm = if start == 0 { 1_000_000 } else { 0 });
            assert_eq!(simulation.run_to_end(process), Stop::Done);
            simulation.set_faults(|faults| faults.flush_error_ppm = 0);
            simulation.crash(machine, if start == 0 { CrashKind::Kill } else { CrashKind::Power });
        }
        let found = found.borrow();
        assert!(!found[0].0 && found[1].0 && found[2].0, "seed {seed}: {found:?}");
        assert_eq!(found[1].1, found[2].1, "seed {seed}");
        kept += usize::from(found[1].1 == [1, 2]);
    }
    assert!((20..180).contains(&kept), "the failed mark was sometimes there, sometimes not: {kept}");
}

/// Writes a frame of so many bytes and waits until it is durable.
async fn append(journal: &Rc<Journal>, bytes: usize) {
    let growth = Growth { blocks: 1, ..Growth::default() };
    let slot = journal.reserve(FrameKind::Block, 1, bytes, growth).expect("there is room");
    let part = Part { length: bytes as u32, checksum: crc32c(&slot.buf[slot.parts_at..][..bytes]) };
    let done = Event::new();
    let told = done.clone();
    journal.submit(slot, vec![part], Box::new(move |_| told.notify()));
    done.wait().await;
}

#[test]
fn zeros_are_written_ahead_of_small_frames_that_follow_each_other() {
    let simulation = Simulation::new(1, Faults::default(), false);
    let machine = simulation.machine(64 << 20);
    let is_done = Rc::new(Cell::new(false));
    let told = is_done.clone();
    simulation.program(machine, |rt| async move {
        let folder = rt.create_folder(Path::new("/data")).await.unwrap();
        Journal::create(&rt, &folder, ID, 8 << 20).await.unwrap();
        let journal = open(&rt, &mut Marks::default()).await.unwrap();
        let asked = || {
            let head = journal.head.borrow();
            let ahead = head.active.ahead.borrow();
            ahead.is_under_way() || ahead.zeroed_to > 0
        };
        for _ in 0..6 {
            append(&journal, 200 << 10).await;
            append(&journal, 100).await;
        }
        assert!(!asked(), "small ones among large ones");
        for _ in 0..6 {
            append(&journal, 100).await;
        }
        assert!(!asked());
        append(&journal, 100).await;
        assert!(asked(), "the eighth");
        told.set(true);
    });
    simulation.run_until(&is_done);
}

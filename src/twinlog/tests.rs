//! A twin log in the real world, and its bytes after every kind of damage.
//!
//! Floor 2.

use super::*;
use crate::rt::World;

const NAME: &str = "log";
const BYTES: u64 = 256 << 10;
const IDENTITY: u64 = 0x5eed;

/// Runs `work` on an executor over the files of `folder`.
fn on_executor<F, Fut>(folder: &std::path::Path, work: F)
where
    F: FnOnce(Rt, Folder) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let folder = folder.to_owned();
    let main = |rt: Rt| async move {
        let folder = rt.folder(&folder).await.unwrap();
        work(rt.clone(), folder).await;
    };
    World::real().executor("twinlog", None, main).unwrap().join_blocking();
}

fn records(range: std::ops::Range<u32>, bytes: usize) -> Vec<Vec<u8>> {
    let record = |number: u32| number.to_le_bytes().into_iter().cycle().take(bytes.max(4)).collect();
    range.map(record).collect()
}

fn contents(folder: &std::path::Path) -> [Vec<u8>; 2] {
    let (sender, receiver) = std::sync::mpsc::channel();
    on_executor(folder, move |_, folder| async move {
        for slot in 0..2 {
            let file = folder.open(&file_name(NAME, slot), Access::Read).await.unwrap();
            sender.send(read(&file, file.bytes().await.unwrap()).await.unwrap()).unwrap();
        }
    });
    [receiver.recv().unwrap(), receiver.recv().unwrap()]
}

fn scan_of(files: &[Vec<u8>; 2]) -> Scan {
    let scan = scan(NAME, IDENTITY, [&files[0], &files[1]]);
    for (slot, file) in files.iter().enumerate() {
        let mut end = 0;
        for region in scan.regions.iter().filter(|region| region.slot == slot) {
            assert_eq!(region.start, end, "regions leave no gap and do not overlap");
            end = region.end;
        }
        assert_eq!(end, file.len() as u64);
    }
    scan
}

/// A log of three appends of 1, 2 and 1 records, the second of two blocks.
fn three_appends() -> [Vec<u8>; 2] {
    let folder = tempfile::tempdir().unwrap();
    on_executor(folder.path(), |rt, folder| async move {
        let mut log = TwinLog::create(&rt, &folder, NAME, IDENTITY, BYTES).await.unwrap();
        log.append(&records(0..1, 10)).await.unwrap();
        log.append(&records(1..3, 3000)).await.unwrap();
        log.append(&records(3..4, 10)).await.unwrap();
    });
    contents(folder.path())
}

#[test]
fn appends_and_snapshots_survive_reopening() {
    let folder = tempfile::tempdir().unwrap();
    on_executor(folder.path(), |rt, folder| async move {
        let mut expected = Vec::new();
        let mut snapshots = 0;
        drop(TwinLog::create(&rt, &folder, NAME, IDENTITY, BYTES).await.unwrap());
        for round in 0..20u32 {
            let (mut log, found, damages) = TwinLog::open(&rt, &folder, NAME, IDENTITY).await.unwrap();
            assert_eq!(found, expected);
            assert_eq!(damages, []);
            for step in 0..7 {
                let number = round * 7 + step;
                let adding = records(number..number + 2, 100 + 700 * step as usize);
                if log.needs_snapshot(TwinLog::adding(&adding)) {
                    // What lives is the last few records.
                    expected.drain(..expected.len().saturating_sub(9));
                    log.snapshot(&expected).await.unwrap();
                    snapshots += 1;
                }
                log.append(&adding).await.unwrap();
                expected.extend(adding);
            }
        }
        assert!(snapshots > 3, "{snapshots}");
    });
    assert!(scan_of(&contents(folder.path())).unusable.is_none());
}

#[test]
fn a_snapshot_larger_than_the_file_grows_it() {
    let folder = tempfile::tempdir().unwrap();
    on_executor(folder.path(), |rt, folder| async move {
        let mut log = TwinLog::create(&rt, &folder, NAME, IDENTITY, BYTES).await.unwrap();
        let large = records(0..1000, 1000);
        assert!(log.needs_snapshot(TwinLog::adding(&large)));
        assert_eq!(log.append(&large).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        log.snapshot(&large).await.unwrap();
        log.append(&records(5..6, 10)).await.unwrap();
        drop(log);
        let (_, found, _) = TwinLog::open(&rt, &folder, NAME, IDENTITY).await.unwrap();
        assert_eq!(found.len(), 1001);
        assert_eq!(found[..1000], large);
        let other = TwinLog::open(&rt, &folder, NAME, IDENTITY + 1).await.err().unwrap();
        assert!(matches!(other, OpenError::Unusable(Unusable::Damaged { .. })), "another identity: {other}");
    });
}

#[test]
fn one_flipped_bit_anywhere_is_named_or_unused() {
    let files = three_appends();
    let clean = scan_of(&files);
    let written = [records(0..1, 10), records(1..3, 3000), records(3..4, 10)].concat();
    assert_eq!(clean.records, written);
    let mut named = 0;
    for slot in 0..2 {
        for position in (0..files[slot].len()).step_by(97) {
            let mut damaged = files.clone();
            damaged[slot][position] ^= 1 << (position % 8);
            let scan = scan_of(&damaged);
            assert_eq!(scan.unusable, None);
            assert_eq!(scan.records, clean.records, "slot {slot} byte {position}");
            let region = |region: &&Region| {
                region.slot == slot && (region.start..region.end).contains(&(position as u64))
            };
            let meaning = scan.regions.iter().find(region).unwrap();
            match scan.damages.as_slice() {
                [] => assert_eq!(meaning.meaning, Meaning::Unused, "slot {slot} byte {position}"),
                [damage] => {
                    assert!((damage.position..damage.position + damage.bytes).contains(&(position as u64)));
                    assert!(!meaning.good);
                    named += 1;
                }
                more => panic!("{more:?}"),
            }
        }
    }
    assert!(named > 100);
}

#[test]
fn only_the_last_record_may_be_cut() {
    let files = three_appends();
    let group = |sequence: u64| {
        let of =
            |region: &&Region| matches!(region.meaning, Meaning::Group { sequence: s, .. } if s == sequence);
        scan_of(&files).regions.iter().filter(of).map(|region| region.start as usize).collect::<Vec<_>>()
    };
    let both_bad = |sequence| {
        let mut damaged = files.clone();
        group(sequence).into_iter().for_each(|start| damaged[0][start + 50] ^= 4);
        scan_of(&damaged)
    };
    let last = both_bad(3);
    assert_eq!((last.records.len(), last.unusable), (3, None));
    for sequence in [1, 2] {
        let lost = both_bad(sequence).unusable.unwrap();
        let start = group(sequence)[0] as u64;
        assert!(matches!(lost, Unusable::Damaged { position, .. } if position == start), "{lost}");
    }
    let mut headers = files.clone();
    headers[1][20] ^= 1;
    headers[1][4096 + 20] ^= 1;
    assert!(matches!(scan_of(&headers).unusable, Some(Unusable::Damaged { what: "the header", .. })));
}

#[test]
fn opening_repairs_and_continues() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = three_appends();
    files[0][3000] ^= 1; // header A
    files[1][4096] ^= 1; // header B of the spare file
    files[0][8192 + 5] ^= 1; // first copy of the first record
    on_executor(folder.path(), |rt, folder| async move {
        for (slot, content) in files.iter().enumerate() {
            let file = folder.create(&file_name(NAME, slot), BYTES).await.unwrap();
            let mut buffer = rt.buffer(content.len());
            buffer.copy_from_slice(content);
            file.write_durable(buffer.freeze(), 0).await.unwrap();
        }
        let (mut log, found, damages) = TwinLog::open(&rt, &folder, NAME, IDENTITY).await.unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!(damages.len(), 3);
        log.append(&records(9..10, 4)).await.unwrap();
        drop(log);
        let (_, found, damages) = TwinLog::open(&rt, &folder, NAME, IDENTITY).await.unwrap();
        assert_eq!((found.len(), damages.len()), (5, 0));
    });
}

#[test]
fn a_newer_version_asks_for_an_upgrade() {
    let mut files = three_appends();
    let seed = Seed::new(IDENTITY, NAME);
    let block = &mut files[0][..BLOCK_BYTES];
    block[8] = 2;
    let crc = layout::checksum(seed, block, 12);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    let newer = scan_of(&files).unusable.unwrap();
    assert_eq!(newer, Unusable::Newer { file: "log.0".to_owned(), version: 2 });
}

#[test]
fn random_bytes_never_panic() {
    let files = three_appends();
    let mut state = 1u64;
    for _ in 0..3000 {
        let mut damaged = [files[0][..64 << 10].to_vec(), files[1][..8192].to_vec()];
        for _ in 0..4 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let place = (state >> 33) as usize % (40 << 10);
            damaged[0][place] = (state >> 12) as u8;
        }
        let length = (state >> 40) as usize % damaged[0].len();
        if state.is_multiple_of(5) {
            damaged[0].truncate(length);
        }
        scan_of(&damaged);
    }
}

/// After a failed flush the next one succeeds and does nothing: what a start read back and answered must
/// not be gone after the next power cut.
#[cfg(feature = "sim")]
#[test]
fn what_was_answered_survives_a_flush_that_lied() {
    use std::cell::RefCell;
    use std::rc::Rc;

    use crate::rt::sim::{CrashKind, Faults, Simulation, Stop};

    async fn reopened(rt: Rt, found: Rc<RefCell<Vec<Vec<Vec<u8>>>>>) {
        let folder = rt.create_folder(std::path::Path::new("/data")).await.unwrap();
        if let Ok((_, records, _)) = TwinLog::open(&rt, &folder, NAME, IDENTITY).await {
            found.borrow_mut().push(records);
        }
    }

    let mut kept = 0;
    for seed in 0..200 {
        let simulation = Simulation::new(seed, Faults::default(), false);
        let machine = simulation.machine(4 << 20);
        let is_made = Rc::new(std::cell::Cell::new(false));
        let told = is_made.clone();
        let process = simulation.program(machine, |rt| async move {
            let folder = rt.create_folder(std::path::Path::new("/data")).await.unwrap();
            let mut log = TwinLog::create(&rt, &folder, NAME, IDENTITY, BYTES).await.unwrap();
            log.append(&records(0..1, 10)).await.unwrap();
            told.set(true);
            rt.sleep(Duration::from_millis(1)).await;
            log.append(&records(1..2, 10)).await.unwrap_err();
        });
        simulation.run_until(&is_made);
        simulation.set_faults(|faults| faults.write_error_ppm = 1_000_000);
        assert_eq!(simulation.run_to_end(process), Stop::Done);
        simulation.set_faults(|faults| faults.write_error_ppm = 0);

        // The first start fails, the second one is lied to, then comes the cut.
        let found = Rc::new(RefCell::new(Vec::new()));
        for start in 0..3 {
            simulation.set_faults(|faults| faults.flush_error_ppm = if start == 0 { 1_000_000 } else { 0 });
            let found = found.clone();
            let process = simulation.program(machine, |rt| reopened(rt, found));
            assert_eq!(simulation.run_to_end(process), Stop::Done);
            simulation.crash(machine, if start == 0 { CrashKind::Kill } else { CrashKind::Power });
        }
        let found = found.borrow();
        assert_eq!(found[0], found[1], "seed {seed}");
        kept += usize::from(found[0].len() == 2);
    }
    assert!((20..180).contains(&kept), "the failed append was sometimes there, sometimes not: {kept}");
}

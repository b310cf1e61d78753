//! A small durable log whose every record is written twice, in separate 4 KiB blocks: one good
//! copy counts and repairs the other. Metadata and journal manifests live in one.
//!
//! Floor 2. Owner: whoever opened it, alone. Two files, allocated whole, are used in turn: when one
//! is full, the live content is written as a snapshot into the other, which then becomes current by
//! a new header. Invariants: `append` returns only once its records are durable, and keeps all of
//! them or none; after a failed write nothing more is written (the next start decides what counts);
//! of a record whose copies are both bad, only the last one may be cut: any other is damage.

mod layout;
mod scan;
#[cfg(test)]
mod tests;

pub use scan::{Damage, Meaning, Region, Scan, Unusable, file_name, scan};

use std::io;
use std::time::Duration;

use self::layout::{HEADERS_BYTES, Header, Seed, encode_group, group_bytes, group_bytes_of};
use crate::base::align::{BLOCK_BYTES, align_up, is_aligned};
use crate::rt::{Access, File, Folder, Rt};

/// Payload from which a snapshot begins a new group: a flipped bit then costs little to repair.
const SNAPSHOT_GROUP_BYTES: usize = 256 << 10;
const READ_BYTES: usize = 1 << 20;
/// How long a killed process's last writes may take to land.
const LOCK_ATTEMPTS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{file}: {error}")]
    Io { file: String, error: io::Error },
    #[error("{file} is in use by another process: stop that broker first")]
    InUse { file: String },
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

pub struct TwinLog {
    rt: Rt,
    seed: Seed,
    files: [File; 2],
    bytes: [u64; 2],
    current: usize,
    generation: u64,
    stamp: u64,
    next_sequence: u64,
    /// Where the next group goes in the current file.
    end: u64,
    failed: bool,
}

impl TwinLog {
    /// Makes an empty log of two files of `bytes` each. What an interrupted creation left under
    /// the same name is removed: the caller knows that no creation ever completed.
    pub async fn create(rt: &Rt, folder: &Folder, name: &str, seed: u64, bytes: u64) -> io::Result<TwinLog> {
        assert!(
            is_aligned(bytes) && bytes >= 2 * HEADERS_BYTES,
            "a twin log has room for headers and a record"
        );
        for entry in folder.list().await? {
            if entry.name == file_name(name, 0) || entry.name == file_name(name, 1) {
                folder.remove(&entry.name).await?;
            }
        }
        let seed = Seed::new(seed, name);
        let files = [
            folder.create(&file_name(name, 0), bytes).await?,
            folder.create(&file_name(name, 1), bytes).await?,
        ];
        for file in &files {
            lock(rt, file).await?;
        }
        rt.step("twinlog.files_created");
        let log = TwinLog {
            rt: rt.clone(),
            seed,
            files,
            bytes: [bytes; 2],
            current: 0,
            generation: 1,
            stamp: rt.random(),
            next_sequence: 1,
            end: HEADERS_BYTES,
            failed: false,
        };
        let spare = Header { generation: 0, first_sequence: 0, snapshot_groups: 0, stamp: 0 };
        log.write_headers(1, spare).await?;
        let current = Header { generation: 1, first_sequence: 1, snapshot_groups: 0, stamp: log.stamp };
        log.write_headers(0, current).await?;
        rt.step("twinlog.headers_written");
        folder.sync().await?;
        Ok(log)
    }

    /// Opens a log, repairs copies and makes all that it answers durable (a killed process may
    /// have written it without its flush). Answers the records since and including the last
    /// snapshot, and the copies that it repaired.
    pub async fn open(
        rt: &Rt,
        folder: &Folder,
        name: &str,
        seed: u64,
    ) -> Result<(TwinLog, Vec<Vec<u8>>, Vec<Damage>), OpenError> {
        let files = [open_file(rt, folder, name, 0).await?, open_file(rt, folder, name, 1).await?];
        let failed = |slot: usize| move |error| OpenError::Io { file: file_name(name, slot), error };
        let mut bytes = [0; 2];
        let mut contents = [Vec::new(), Vec::new()];
        for (slot, file) in files.iter().enumerate() {
            bytes[slot] = file.bytes().await.map_err(failed(slot))?;
            contents[slot] = read(file, HEADERS_BYTES.min(bytes[slot])).await.map_err(failed(slot))?;
        }
        let current = scan::choose(name, seed, [&contents[0], &contents[1]])?;
        contents[current] = read(&files[current], bytes[current]).await.map_err(failed(current))?;
        rt.step("twinlog.read");
        let scan = scan(name, seed, [&contents[0], &contents[1]]);
        if let Some(unusable) = scan.unusable {
            return Err(unusable.into());
        }
        // What was written last is written again even if it reads well: after a flush that failed, the next
        // one succeeds and does nothing. One copy after the other, so that a cut tears one.
        for repair in scan.repairs.iter().chain(&scan.unproven) {
            let good = &contents[repair.slot][repair.source as usize..][..repair.bytes as usize];
            let mut buffer = rt.buffer(good.len());
            buffer.copy_from_slice(good);
            let written = files[repair.slot].write_durable(buffer.freeze(), repair.position).await;
            written.map_err(failed(repair.slot))?;
            rt.step("twinlog.copy_written");
        }
        for (slot, file) in files.iter().enumerate() {
            file.flush().await.map_err(failed(slot))?;
        }
        // A killed process may have made the files without their names being durable.
        folder.sync().await.map_err(failed(current))?;
        rt.step("twinlog.opened");
        let log = TwinLog {
            rt: rt.clone(),
            seed: Seed::new(seed, name),
            files,
            bytes,
            current,
            generation: scan.generation,
            stamp: scan.stamp,
            next_sequence: scan.next_sequence,
            end: scan.end,
            failed: false,
        };
        Ok((log, scan.records, scan.damages))
    }

    /// Whether records of `adding` bytes in all (lengths of their own included) do not fit any
    /// more: take a snapshot before the append.
    pub fn needs_snapshot(&self, adding: usize) -> bool {
        self.end + 2 * group_bytes_of(adding) as u64 > self.bytes[self.current]
    }

    /// What `needs_snapshot` wants to know of these records.
    pub fn adding(records: &[Vec<u8>]) -> usize {
        records.iter().map(|record| record.len() + size_of::<u32>()).sum()
    }

    /// Durable when it returns: all records or, after a crash in between, all or none. One that
    /// does not fit is refused with `StorageFull` and changes nothing; after any other error the
    /// log is given up.
    pub async fn append(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        self.check_alive()?;
        let bytes = 2 * group_bytes(records);
        if self.end + bytes as u64 > self.bytes[self.current] {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the log is full: it needs a snapshot"));
        }
        let mut buffer = self.rt.buffer(bytes);
        encode_group(self.seed, self.stamp, self.next_sequence, records, &mut buffer);
        self.rt.step("twinlog.append");
        // Set before the write: an append that is never finished leaves the log unusable too.
        self.failed = true;
        let file = &self.files[self.current];
        if self.rt.mutated("twinlog.append_without_flush") {
            file.write_at(buffer.freeze(), self.end).await?;
        } else {
            file.write_durable(buffer.freeze(), self.end).await?;
        }
        self.failed = false;
        self.rt.step("twinlog.appended");
        self.end += bytes as u64;
        self.next_sequence += 1;
        Ok(())
    }

    /// Replaces everything by `records`, atomically. The files grow so that later snapshots stay
    /// rare; `StorageFull` (there is no space for that, and none inside) changes nothing.
    pub async fn snapshot(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        self.snapshot_with_room(records, 0).await
    }

    /// A snapshot that leaves room for an append of `adding` bytes (as in `needs_snapshot`).
    pub async fn snapshot_with_room(&mut self, records: &[Vec<u8>], adding: usize) -> io::Result<()> {
        self.check_alive()?;
        let groups = split_groups(records);
        let bytes: u64 =
            groups.iter().map(|group| 2 * group_bytes(group) as u64).sum::<u64>() + HEADERS_BYTES;
        let target = 1 - self.current;
        let least = bytes + 2 * group_bytes_of(adding) as u64;
        self.grow(target, align_up(bytes * 4).max(least), least).await?;
        self.failed = true;
        let header = Header {
            generation: self.generation + 1,
            first_sequence: self.next_sequence,
            snapshot_groups: groups.len() as u32,
            stamp: self.rt.random(),
        };
        if self.rt.mutated("twinlog.header_before_snapshot") {
            self.write_headers(target, header).await?;
        }
        let mut end = HEADERS_BYTES;
        for group in &groups {
            let mut buffer = self.rt.buffer(2 * group_bytes(group));
            encode_group(self.seed, header.stamp, self.next_sequence, group, &mut buffer);
            let length = buffer.len() as u64;
            self.files[target].write_at(buffer.freeze(), end).await?;
            self.rt.step("twinlog.snapshot_group_written");
            end += length;
            self.next_sequence += 1;
        }
        // The content first, then the header that makes it count.
        self.files[target].flush().await?;
        self.rt.step("twinlog.snapshot_flushed");
        self.write_headers(target, header).await?;
        self.current = target;
        self.generation = header.generation;
        self.stamp = header.stamp;
        self.end = end;
        self.failed = false;
        self.rt.step("twinlog.snapshot_done");
        Ok(())
    }

    /// Makes the target file `wanted` bytes large; `least` must do if there is no space for that.
    async fn grow(&mut self, target: usize, wanted: u64, least: u64) -> io::Result<()> {
        if self.bytes[target] >= wanted {
            return Ok(());
        }
        match self.files[target].allocate(wanted).await {
            Ok(()) => self.bytes[target] = wanted,
            Err(_) if self.bytes[target] >= least + least / 4 => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::StorageFull, error)),
        }
        Ok(())
    }

    /// One copy after the other is durable: at any moment one of them verifies, so that two bad
    /// ones are always damage.
    async fn write_headers(&self, slot: usize, header: Header) -> io::Result<()> {
        for copy in 0..2u64 {
            let mut buffer = self.rt.buffer(BLOCK_BYTES);
            header.encode(self.seed, &mut buffer);
            self.files[slot].write_durable(buffer.freeze(), copy * BLOCK_BYTES as u64).await?;
            self.rt.step("twinlog.header_written");
        }
        Ok(())
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other(
                "an earlier write failed: restart the broker once the disk is well",
            ));
        }
        Ok(())
    }
}

fn split_groups(records: &[Vec<u8>]) -> Vec<&[Vec<u8>]> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, record) in records.iter().enumerate() {
        if bytes > 0 && bytes + record.len() > SNAPSHOT_GROUP_BYTES {
            groups.push(&records[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += record.len() + size_of::<u32>();
    }
    groups.push(&records[start..]);
    groups
}

async fn open_file(rt: &Rt, folder: &Folder, name: &str, slot: usize) -> Result<File, OpenError> {
    let file_name = file_name(name, slot);
    let file = match folder.open(&file_name, Access::Write).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Unusable::Missing { file: file_name }.into());
        }
        Err(error) => return Err(OpenError::Io { file: file_name, error }),
    };
    match lock(rt, &file).await {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(OpenError::InUse { file: file_name }),
        Err(error) => Err(OpenError::Io { file: file_name, error }),
    }
}

/// Waits until no earlier process has a write to this file in flight.
async fn lock(rt: &Rt, file: &File) -> io::Result<()> {
    for _ in 0..LOCK_ATTEMPTS {
        if file.lock().await? {
            return Ok(());
        }
        rt.sleep(LOCK_PAUSE).await;
    }
    Err(io::ErrorKind::WouldBlock.into())
}

async fn read(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(bytes as usize);
    while (content.len() as u64) < bytes {
        let wanted = (bytes as usize - content.len()).min(READ_BYTES);
        let part = file.read_at(content.len() as u64, align_up(wanted as u64) as usize).await?;
        if part.is_empty() {
            break;
        }
        content.extend_from_slice(&part[..part.len().min(wanted)]);
    }
    Ok(content)
}

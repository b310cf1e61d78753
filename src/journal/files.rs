//! The files of a journal, and the order in which they come and go.
//!
//! Floor 3. Owner: the journal's one maintenance task. Order of effects: `plan` is durable before a
//! file is created, `complete` before it is used, `remove` before it is unlinked.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::segment::{Index, OpenIndex, Segment};
use super::{Journal, append::Offline, is_full};
use crate::format::frame::Address;
use crate::format::manifest::{Record, Role};
use crate::rt::{Access, File, Folder, Rt, Space};
use crate::twinlog::TwinLog;

/// Free space that segments leave alone, as a share of the filesystem: checkpoints and metadata grow.
const FREE_SHARE: u64 = 50;
/// How long a killed broker's last writes may take to land.
const LOCK_ATTEMPTS: u32 = 400;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Locks a file through its writing descriptor: proves that no earlier process has a write in flight.
/// False if another process keeps it.
pub(super) async fn lock(rt: &Rt, file: &File) -> io::Result<bool> {
    for _ in 0..LOCK_ATTEMPTS {
        if file.lock().await? {
            return Ok(true);
        }
        rt.sleep(LOCK_PAUSE).await;
    }
    Ok(false)
}

/// Name of the file that holds the space of one rewrite.
pub(super) const RESERVE: &str = "reserve";

impl Journal {
    /// Appends records to the manifest; they count once they are durable.
    pub(super) async fn note_manifest(&self, records: &[Record]) -> io::Result<()> {
        let mut log = loop {
            if let Some(log) = { self.manifest_log.borrow_mut().take() } {
                break log;
            }
            self.manifest_free.wait().await;
        };
        let result = self.append_manifest(&mut log, records).await;
        *self.manifest_log.borrow_mut() = Some(log);
        self.manifest_free.notify();
        self.check_write("its manifest could not be written", result)
    }

    /// The first failed write or flush ends the journal; a full disk does not.
    pub(super) fn check_write<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && !is_full(error)
        {
            self.go_offline(format!(
                "journal {} is offline: {what}: {error}; check the disk, then restart the broker",
                self.id
            ));
        }
        result
    }

    pub(super) fn take_number(&self) -> u64 {
        let number = self.number_next.get();
        self.number_next.set(number + 1);
        number
    }

    async fn append_manifest(&self, log: &mut TwinLog, records: &[Record]) -> io::Result<()> {
        let bytes: Vec<_> = records.iter().map(Record::encode).collect();
        if log.needs_snapshot(TwinLog::adding(&bytes)) {
            let snapshot: Vec<_> = self.manifest.borrow().snapshot().iter().map(Record::encode).collect();
            log.snapshot(&snapshot).await?;
        }
        log.append(&bytes).await?;
        let mut manifest = self.manifest.borrow_mut();
        for record in records {
            manifest.apply(record).expect("own records fit");
        }
        Ok(())
    }

    /// Makes sure that a segment follows the active one, unless that left too little of the disk.
    /// A full disk leaves everything as it was.
    pub async fn allocate_next_within(&self, space: Space) -> io::Result<()> {
        if self.has_next() || self.offline().is_some() {
            return Ok(());
        }
        let active = self.head.borrow().active.number;
        // Recovery may have cut the log below segments that were there already.
        let unused = self
            .segments()
            .into_iter()
            .find(|segment| segment.role == Role::Log && segment.number > active && segment.is_open());
        let next = match unused {
            Some(segment) => segment,
            None if space.available < self.segment_bytes + space.total / FREE_SHARE => {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            None => self.create_log_segment(self.take_number()).await?,
        };
        self.segments.borrow_mut().insert(next.number, next.clone());
        let mut head = self.head.borrow_mut();
        (head.next, head.is_starved) = (Some(next), false);
        drop(head);
        self.changed.notify();
        Ok(())
    }

    async fn create_log_segment(&self, number: u64) -> io::Result<Rc<Segment>> {
        let role = Role::Log;
        self.note_manifest(&[Record::Plan { number, role, inputs: Vec::new() }]).await?;
        self.rt.step("allocate.planned");
        let file = match create_file(&self.folder, &Segment::name(number), self.segment_bytes).await {
            Ok(file) => file,
            Err(error) => {
                // Nothing of it stays: the plan is taken back, so that the number is not met again.
                self.note_manifest(&[Record::Remove { number }]).await?;
                return self.check_write("a segment could not be made", Err(error));
            }
        };
        self.rt.step("allocate.created");
        self.note_manifest(&[Record::Complete { number, bytes: self.segment_bytes }]).await?;
        self.rt.step("allocate.complete");
        Ok(Segment::new(number, role, file, self.segment_bytes, Index::Open(OpenIndex::default())))
    }

    /// Free and total bytes of the filesystem.
    pub async fn space(&self) -> io::Result<Space> {
        self.folder.space().await
    }

    /// The oldest segment whose footer is durable but not yet named by the manifest.
    pub fn next_sealed(&self) -> Option<(Rc<Segment>, Address)> {
        let sealing = self.sealing.borrow();
        let (segment, footer) = sealing.front()?;
        (self.durable() > *footer).then(|| (segment.clone(), *footer))
    }

    /// Names a footer in the manifest; the segment is sealed from then on.
    pub async fn note_sealed(&self, segment: &Rc<Segment>, footer: Address) -> io::Result<()> {
        self.rt.step("seal.footer_durable");
        self.note_manifest(&[Record::Sealed { number: segment.number, footer: footer.byte }]).await?;
        self.rt.step("seal.noted");
        segment.footer.set(Some(footer.byte));
        self.sealing.borrow_mut().pop_front();
        Ok(())
    }

    /// Takes segments out for good. Whoever still reads one keeps its file open.
    pub async fn remove(&self, numbers: &[u64]) -> io::Result<()> {
        if self.rt.mutated("remove-before-manifest") {
            for number in numbers {
                self.folder.remove(&Segment::name(*number)).await?;
            }
            self.folder.sync().await?;
            self.rt.step("remove.unlinked");
        }
        let records: Vec<_> = numbers.iter().map(|&number| Record::Remove { number }).collect();
        self.note_manifest(&records).await?;
        self.rt.step("remove.noted");
        for number in numbers {
            self.segments.borrow_mut().remove(number);
            match self.folder.remove(&Segment::name(*number)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            self.rt.step("remove.unlinked");
        }
        self.check_write("its folder could not be flushed", self.folder.sync().await)?;
        self.rt.step("remove.synced");
        Ok(())
    }

    /// Makes the reserve anew after a rewrite used it. Without space it stays away until the next try.
    pub async fn ensure_reserve(&self) -> io::Result<()> {
        if self.has_reserve.get() {
            return Ok(());
        }
        match self.folder.create(RESERVE, self.segment_bytes).await {
            Ok(file) => file.close().await?,
            Err(error) => return Err(error),
        }
        let synced = self.folder.sync().await;
        if synced.is_err() {
            // The next try makes it anew.
            let _ = self.folder.remove(RESERVE).await;
        }
        self.check_write("its folder could not be flushed", synced)?;
        self.has_reserve.set(true);
        Ok(())
    }

    pub fn has_reserve(&self) -> bool {
        self.has_reserve.get()
    }

    /// Turns the reserve into the file of a rewrite's output.
    pub(super) async fn take_reserve(&self, number: u64) -> io::Result<File> {
        let name = Segment::name(number);
        self.folder.rename(RESERVE, &name).await?;
        self.has_reserve.set(false);
        self.folder.sync().await?;
        let file = self.folder.open(&name, Access::Write).await?;
        file.lock().await?;
        Ok(file)
    }

    /// Ends the journal: nothing may be submitted any more; in-flight writes have been awaited.
    pub fn close(&self) {
        let closed = Offline(format!("journal {} is closed", self.id));
        self.head.borrow_mut().offline.get_or_insert(closed);
        drop(self.manifest_log.borrow_mut().take());
    }
}

/// Makes a file whole, locked and durable; nothing of it stays if that fails.
pub(super) async fn create_file(folder: &Folder, name: &str, bytes: u64) -> io::Result<File> {
    let file = folder.create(name, bytes).await?;
    let made = async {
        if !file.lock().await? {
            return Err(io::Error::other("another process holds the new file"));
        }
        file.flush().await?;
        folder.sync().await
    };
    if let Err(error) = made.await {
        // The first error is the one to tell.
        let _ = file.close().await;
        let _ = folder.remove(name).await;
        return Err(error);
    }
    Ok(file)
}

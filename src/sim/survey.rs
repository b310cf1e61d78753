//! The whole log as a client reads it once all is quiet.
//!
//! Floor 6.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::history::{Place, RecordId, identify};
use super::load::{self, Shared};
use super::topics::TopicPlan;
use crate::client::{ConsumerHandle, Position};
use crate::model::Offset;
use crate::rt::{Instant, Level, Rt, local};

/// A partition that gives nothing for so long is unavailable.
const PATIENCE: Duration = Duration::from_secs(20);

/// One partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub start: Offset,
    pub end: Offset,
    /// Behind what consumers had read when the end was asked for: records that were sent and not waited for
    /// (acks=0) may come, and be read, after that.
    pub read_to: Offset,
    pub records: BTreeMap<Offset, RecordId>,
    /// Not all could be read in time.
    pub unavailable: bool,
}

impl Log {
    /// Retention went on while the log was read.
    fn raise_start(&mut self, rt: &Rt, start: Offset) {
        if start > self.start {
            rt.log(Level::Debug, format!("survey: the log start rose from {} to {start}", self.start));
            self.start = start;
            self.records = self.records.split_off(&start);
        }
    }
}

pub(super) type Survey = BTreeMap<Place, Log>;

/// Reads everything; the result is there once it is done.
pub(super) async fn survey(
    rt: Rt,
    broker: SocketAddr,
    topics: Vec<TopicPlan>,
    history: Shared,
    result: Rc<RefCell<Option<Survey>>>,
) {
    let admin = load::admin(&rt, broker);
    let mut logs = Survey::new();
    for topic in &topics {
        let read_to: Vec<_> = (0..topic.partitions)
            .map(|partition| history.borrow().read_to(&(topic.name.clone(), partition)))
            .collect();
        let offsets = local::timeout(&rt, PATIENCE, admin.offsets(&topic.name)).await;
        for partition in 0..topic.partitions {
            let log = match &offsets {
                Some(Ok(offsets)) if offsets.len() == topic.partitions as usize => {
                    let (start, end) = offsets[partition as usize];
                    Log { start, end, read_to: read_to[partition as usize], ..Log::default() }
                }
                _ => Log { unavailable: true, ..Log::default() },
            };
            logs.insert((topic.name.clone(), partition), log);
        }
    }
    let handle = load::consumer(&rt, broker);
    for ((topic, partition), log) in logs.iter().filter(|(_, log)| !log.unavailable && log.start < log.end) {
        handle.assign(topic, *partition, Position::Offset(log.start));
    }
    read_all(&rt, &handle, &mut logs, &history).await;
    handle.close();
    for topic in &topics {
        if let Some(Ok(offsets)) = local::timeout(&rt, PATIENCE, admin.offsets(&topic.name)).await {
            for (partition, (start, _)) in (0..).zip(offsets) {
                logs.entry((topic.name.clone(), partition)).and_modify(|log| log.raise_start(&rt, start));
            }
        }
    }
    *result.borrow_mut() = Some(logs);
}

fn is_read(handle: &ConsumerHandle, place: &Place, log: &Log) -> bool {
    let position = handle.position(&place.0, place.1).unwrap_or(0);
    log.unavailable || log.start >= log.end || position >= log.end
}

async fn read_all(rt: &Rt, handle: &ConsumerHandle, logs: &mut Survey, history: &Shared) {
    let mut heard: Instant = rt.now();
    while !logs.iter().all(|(place, log)| is_read(handle, place, log)) {
        let batch = match local::timeout(rt, Duration::from_secs(1), handle.next_batch()).await {
            None if rt.now() - heard > PATIENCE => break,
            None => continue,
            Some(Err(error)) => {
                rt.log(Level::Debug, format!("survey met: {error}"));
                load::recover(handle, error, history);
                continue;
            }
            Some(Ok(batch)) => batch,
        };
        heard = rt.now();
        let (topic, next) = (&batch.topic, batch.next_offset);
        rt.log(
            Level::Debug,
            format!("survey read {topic}-{} from {} to {next}", batch.partition, batch.from),
        );
        let place: Place = (batch.topic.to_string(), batch.partition);
        for record in batch.records().flatten() {
            let mut history = history.borrow_mut();
            history.read(&place, record.offset, record.value);
            if let (Some(log), Some(id)) = (logs.get_mut(&place), record.value.and_then(identify)) {
                log.records.insert(record.offset, id);
            }
        }
    }
    for (place, log) in logs.iter_mut() {
        if !is_read(handle, place, log) {
            log.unavailable = true;
            let (position, end) =
                (handle.position(&place.0, place.1), handle.high_watermark(&place.0, place.1));
            rt.log(Level::Warn, format!("survey: {place:?} stays at {position:?}, high watermark {end:?}"));
        }
    }
}

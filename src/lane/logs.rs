//! The partitions of a shard, or of a journal that is being rebuilt, by their ids.
//!
//! Floor 3. Owner: a shard. Of a hundred thousand partitions each costs a pointer here: its id lies
//! with it, once.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;

use hashbrown::HashTable;

use super::PartitionLog;
use crate::base::map::hash_of;
use crate::format::checkpoint::PartitionRow;
use crate::model::{LaneId, PartitionId};

/// A partition as its shard and everything that refers to it hold it.
pub type LogRef = Rc<SharedLog>;

pub struct SharedLog {
    pub id: PartitionId,
    pub lane: LaneId,
    log: RefCell<PartitionLog>,
}

impl SharedLog {
    pub fn new(id: PartitionId, lane: LaneId) -> LogRef {
        Rc::new(SharedLog { id, lane, log: RefCell::default() })
    }

    pub fn from_row(row: &PartitionRow) -> LogRef {
        Rc::new(SharedLog { id: row.id, lane: row.lane, log: RefCell::new(PartitionLog::from_row(row)) })
    }

    pub fn row(&self) -> PartitionRow {
        PartitionRow { id: self.id, lane: self.lane, ..self.borrow().row() }
    }

    pub fn borrow(&self) -> Ref<'_, PartitionLog> {
        self.log.borrow()
    }

    pub fn borrow_mut(&self) -> RefMut<'_, PartitionLog> {
        self.log.borrow_mut()
    }
}

#[derive(Default)]
pub struct Logs(HashTable<LogRef>);

impl Logs {
    pub fn get(&self, id: PartitionId) -> Option<&LogRef> {
        self.0.find(hash_of(&id), |log| log.id == id)
    }

    pub fn contains(&self, id: PartitionId) -> bool {
        self.get(id).is_some()
    }

    /// In the place of what had this id.
    pub fn insert(&mut self, log: LogRef) {
        self.remove(log.id);
        self.0.insert_unique(hash_of(&log.id), log, |log| hash_of(&log.id));
    }

    /// The partition; a new one in `lane` if it is not here.
    pub fn get_or_new(&mut self, id: PartitionId, lane: LaneId) -> &LogRef {
        let entry = self.0.entry(hash_of(&id), |log| log.id == id, |log| hash_of(&log.id));
        entry.or_insert_with(|| SharedLog::new(id, lane)).into_mut()
    }

    pub fn remove(&mut self, id: PartitionId) -> Option<LogRef> {
        Some(self.0.find_entry(hash_of(&id), |log| log.id == id).ok()?.remove().0)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In no order that means anything; the same in every run.
    pub fn iter(&self) -> impl Iterator<Item = &LogRef> {
        self.0.iter()
    }

    pub fn into_values(self) -> impl Iterator<Item = LogRef> {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TopicId;

    #[test]
    fn partitions_are_found_by_their_ids() {
        let id = |number| PartitionId { topic: TopicId::new(7), partition: number };
        let mut logs = Logs::default();
        for number in 0..1000 {
            logs.insert(SharedLog::new(id(number), LaneId(number % 3)));
        }
        assert_eq!(logs.get_or_new(id(5), LaneId(9)).lane, LaneId(2));
        assert_eq!(logs.get_or_new(id(1000), LaneId(9)).lane, LaneId(9));
        assert_eq!(logs.len(), 1001);
        assert_eq!(logs.remove(id(500)).map(|log| log.id), Some(id(500)));
        assert!(logs.remove(id(500)).is_none() && !logs.contains(id(500)));
        let mut ids: Vec<_> = logs.iter().map(|log| log.id.partition).collect();
        ids.sort_unstable();
        assert!(ids.iter().copied().eq((0..=1000).filter(|number| *number != 500)));
    }
}

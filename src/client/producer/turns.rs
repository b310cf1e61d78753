//! Partitions that wait for something, in the order in which they came.
//!
//! Floor 5; owned by the producer's machine. Each is there once, and costs the same however many there are: a
//! machine with ten thousand partitions looks at each for every batch.

use std::collections::VecDeque;

#[derive(Default)]
pub(super) struct Turns {
    queue: VecDeque<usize>,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    is_queued: bool,
    /// Not removed since.
    waits: bool,
}

impl Turns {
    pub fn push(&mut self, index: usize) {
        if self.places.len() <= index {
            self.places.resize(index + 1, Place::default());
        }
        let place = &mut self.places[index];
        place.waits = true;
        if !std::mem::replace(&mut place.is_queued, true) {
            self.queue.push_back(index);
        }
    }

    pub fn pop(&mut self) -> Option<usize> {
        loop {
            let index = self.queue.pop_front()?;
            if std::mem::take(&mut self.places[index]).waits {
                return Some(index);
            }
        }
    }

    pub fn remove(&mut self, index: usize) {
        if let Some(place) = self.places.get_mut(index) {
            place.waits = false;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.queue.iter().copied().filter(|index| self.places[*index].waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_turn_in_order_of_arrival() {
        let mut turns = Turns::default();
        [7, 3, 7, 5, 3].into_iter().for_each(|index| turns.push(index));
        turns.remove(3);
        turns.remove(100);
        assert_eq!(turns.iter().collect::<Vec<_>>(), [7, 5]);
        assert_eq!(turns.pop(), Some(7));
        turns.push(7);
        turns.push(3);
        assert_eq!(std::iter::from_fn(|| turns.pop()).collect::<Vec<_>>(), [3, 5, 7]);
    }

    #[test]
    fn what_is_removed_and_comes_again_takes_no_more_room() {
        let mut turns = Turns::default();
        for _ in 0..1000 {
            turns.push(4);
            turns.remove(4);
        }
        assert_eq!((turns.queue.len(), turns.pop()), (1, None));
    }
}

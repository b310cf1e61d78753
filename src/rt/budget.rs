//! A bound on memory that the tasks of one executor share.
//!
//! Floor 1. Owner: shard. Bytes are given back when their lease is dropped, wherever that happens.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::local::Event;

pub struct Budget {
    bytes_max: usize,
    used: Cell<usize>,
    /// Those who wait, in the order in which they came: each has its turn.
    waiting: RefCell<VecDeque<u64>>,
    ticket_last: Cell<u64>,
    /// Something was given back, or somebody waits no more.
    room: Event,
}

/// A place among those who wait.
struct Ticket<'a>(&'a Budget, u64);

/// Bytes taken out of a budget.
pub struct Lease {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Rc<Budget> {
        Rc::new(Budget {
            bytes_max,
            used: Cell::new(0),
            waiting: RefCell::default(),
            ticket_last: Cell::new(0),
            room: Event::new(),
        })
    }

    pub fn left(&self) -> usize {
        self.bytes_max.saturating_sub(self.used.get())
    }

    /// Takes `bytes`, whatever is left.
    pub fn lease(self: &Rc<Self>, bytes: usize) -> Lease {
        self.used.set(self.used.get() + bytes);
        Lease { budget: self.clone(), bytes }
    }

    /// Waits until `bytes` are left and whoever came before was served. One lease that is larger than
    /// the whole budget is granted while there is no other.
    pub async fn wait(self: &Rc<Self>, bytes: usize) -> Lease {
        let ticket = self.queue();
        while self.waiting.borrow().front() != Some(&ticket.1) || self.used.get() > 0 && self.left() < bytes {
            self.room.wait().await;
        }
        self.lease(bytes)
    }

    fn queue(&self) -> Ticket<'_> {
        self.ticket_last.set(self.ticket_last.get() + 1);
        self.waiting.borrow_mut().push_back(self.ticket_last.get());
        Ticket(self, self.ticket_last.get())
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.waiting.borrow_mut().retain(|ticket| *ticket != self.1);
        if !self.0.waiting.borrow().is_empty() {
            self.0.room.notify();
        }
    }
}

impl Lease {
    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.budget.used.set(self.budget.used.get() - (self.bytes - bytes));
        self.bytes = bytes;
        self.budget.room.notify();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn leases_wait_for_room_and_give_it_back() {
        let budget = Budget::new(100);
        let mut first = budget.lease(90);
        let mut waiting = pin!(budget.wait(60));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        first.shrink(50);
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(first);
        let second = waiting.as_mut().poll(&mut context);
        assert!(second.is_ready() && budget.left() == 40);
        drop(second);
        assert_eq!(budget.left(), 100);
        // A small one does not pass a large one that came before, unless that goes away.
        let first = budget.lease(50);
        let mut large = Box::pin(budget.wait(80));
        let mut small = pin!(budget.wait(10));
        assert!(large.as_mut().poll(&mut context).is_pending());
        assert!(small.as_mut().poll(&mut context).is_pending());
        drop(large);
        assert!(small.as_mut().poll(&mut context).is_ready());
        drop(first);
        // Nobody else has any: more than all is granted.
        assert!(pin!(budget.wait(500)).poll(&mut context).is_ready());
    }
}

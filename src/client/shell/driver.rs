//! Drives one machine with tokio: its actions on sockets, its timeouts on the clock.
//!
//! Floor 5; one task per machine, which owns the machine, and one per connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use super::clock::Clock;
use super::connection::{self, Piece};
use crate::client::session::{Action, Event, LinkId, Machine};
use crate::client::sync::Bell;

struct Connection {
    pieces: UnboundedSender<Piece>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    addresses: Arc<Vec<String>>,
    frame_bytes_max: u32,
    connections: BTreeMap<LinkId, Connection>,
    events: UnboundedSender<Event>,
}

/// Runs until the machine has finished.
pub(super) async fn drive(
    mut machine: impl Machine,
    bell: Arc<Bell>,
    addresses: Arc<Vec<String>>,
    frame_bytes_max: u32,
    clock: Clock,
) {
    let (sender, mut events) = unbounded_channel();
    let mut driver = Driver { addresses, frame_bytes_max, connections: BTreeMap::new(), events: sender };
    while !machine.is_finished() {
        machine.handle_timeout(clock.now());
        while let Some(action) = machine.poll_action() {
            driver.act(action);
        }
        let deadline = machine.poll_timeout();
        // A millisecond of the machine's clock ends a millisecond after it began.
        let timeout = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(clock.at(deadline)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = events.recv() => {
                let mut event = event;
                while let Some(next) = event {
                    driver.note(&next);
                    machine.handle_event(clock.now(), next);
                    event = events.try_recv().ok();
                }
            }
            () = bell.wait() => {}
            () = timeout => {}
        }
    }
}

impl Driver {
    fn act(&mut self, action: Action) {
        match action {
            Action::Connect { link, server } => {
                let (pieces, receiver) = unbounded_channel();
                let address = self.addresses[server % self.addresses.len()].clone();
                let events = self.events.clone();
                let run = connection::run(link, address, self.frame_bytes_max, receiver, events);
                let task = tokio::spawn(run).abort_handle();
                self.connections.insert(link, Connection { pieces, task });
            }
            Action::Send { link, head, body } => {
                // A connection that has just failed reports so by itself.
                if let Some(connection) = self.connections.get(&link) {
                    let _ = connection.pieces.send((head, body));
                }
            }
            Action::Close { link } => {
                self.connections.remove(&link);
            }
        }
    }

    fn note(&mut self, event: &Event) {
        if let Event::Closed { link, .. } = event {
            self.connections.remove(link);
        }
    }
}

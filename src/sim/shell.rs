//! Drives a client machine over `rt::Stream`, as the client's own shell does with tokio.
//!
//! Floor 6; one task per machine and one per connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Action, Bell, Event, LinkId, Machine, Millis};
use crate::rt::local::{self, Either, select2};
use crate::rt::{Rt, Stream, mesh};
use crate::wire::FrameReader;

type Piece = (Vec<u8>, Bytes);

/// Frames written by one call.
const PIECES_MAX: usize = 32;

/// Milliseconds of the clock that only grows.
pub(super) fn millis(rt: &Rt) -> Millis {
    rt.now().as_nanos() / 1_000_000
}

struct Connection {
    pieces: mesh::Sender<Piece>,
    stop: local::Event,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stop.notify();
    }
}

/// Runs until the machine has finished.
pub(super) async fn drive(
    rt: Rt,
    mut machine: impl Machine,
    bell: Arc<Bell>,
    broker: SocketAddr,
    frame_bytes_max: u32,
) {
    let (sender, mut events) = mesh::channel();
    let mut connections: BTreeMap<LinkId, Connection> = BTreeMap::new();
    while !machine.is_finished() {
        machine.handle_timeout(millis(&rt));
        while let Some(action) = machine.poll_action() {
            act(&rt, action, &mut connections, &sender, broker, frame_bytes_max);
        }
        if machine.is_finished() {
            break;
        }
        let pause = match machine.poll_timeout() {
            Some(deadline) => Duration::from_millis(deadline.saturating_sub(millis(&rt)).max(1)),
            None => Duration::from_secs(3600),
        };
        let woken = select2(events.recv(), select2(bell.wait(), rt.sleep(pause))).await;
        let Either::First(mut event) = woken else { continue };
        while let Some(next) = event {
            if let Event::Closed { link, .. } = &next {
                connections.remove(link);
            }
            machine.handle_event(millis(&rt), next);
            event = events.try_recv();
        }
    }
}

fn act(
    rt: &Rt,
    action: Action,
    connections: &mut BTreeMap<LinkId, Connection>,
    events: &mesh::Sender<Event>,
    broker: SocketAddr,
    frame_bytes_max: u32,
) {
    match action {
        Action::Connect { link, .. } => {
            let (pieces, receiver) = mesh::channel();
            let stop = local::Event::new();
            connections.insert(link, Connection { pieces, stop: stop.clone() });
            let (task, events) = (rt.clone(), events.clone());
            rt.spawn(async move {
                let run = connection(&task, link, broker, frame_bytes_max, receiver, &events);
                if let Either::First(reason) = select2(run, stop.wait()).await {
                    events.send(Event::Closed { link, reason });
                }
            });
        }
        Action::Send { link, head, body } => {
            // A connection that has just failed reports so by itself.
            if let Some(connection) = connections.get(&link) {
                connection.pieces.send((head, body));
            }
        }
        Action::Close { link } => {
            connections.remove(&link);
        }
    }
}

/// Runs a connection to its end, and answers why it ended.
async fn connection(
    rt: &Rt,
    link: LinkId,
    broker: SocketAddr,
    frame_bytes_max: u32,
    pieces: mesh::Receiver<Piece>,
    events: &mesh::Sender<Event>,
) -> String {
    let stream = match rt.connect(broker).await {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    events.send(Event::Connected { link });
    let writing = write(link, &stream, pieces, events);
    match select2(writing, read(link, &stream, frame_bytes_max, events)).await {
        Either::First(reason) | Either::Second(reason) => reason,
    }
}

async fn read(link: LinkId, stream: &Stream, frame_bytes_max: u32, events: &mesh::Sender<Event>) -> String {
    let mut frames = FrameReader::new(frame_bytes_max);
    loop {
        loop {
            match frames.next() {
                Ok(Some((header, body))) => events.send(Event::Frame { link, header, body }),
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
        match stream.read(frames.space()).await {
            Ok(0) => return "the broker closed the connection".into(),
            Ok(count) => frames.filled(count),
            Err(error) => return error.to_string(),
        }
    }
}

async fn write(
    link: LinkId,
    stream: &Stream,
    mut pieces: mesh::Receiver<Piece>,
    events: &mesh::Sender<Event>,
) -> String {
    while let Some(first) = pieces.recv().await {
        let mut batch = vec![first];
        while batch.len() < PIECES_MAX
            && let Some(next) = pieces.try_recv()
        {
            batch.push(next);
        }
        let slices: Vec<&[u8]> = batch.iter().flat_map(|(head, body)| [&head[..], &body[..]]).collect();
        if let Err(error) = stream.write_all_vectored(&slices).await {
            return error.to_string();
        }
        events.send(Event::Written { link, bytes: slices.iter().map(|slice| slice.len()).sum() });
    }
    "closed by this client".into()
}

//! The reading side of a connection: frames to requests, and what their replies look like.
//!
//! Floor 4. Owner: shard. Only produce is held back (when staging is full); everything else is
//! read as long as the connection keeps its own bounds.

use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;

use crate::api::{self, Done};
use crate::base::Set;
use crate::model::{ErrorCode, Failure, PartitionId};
use crate::net::connection::{Connection, Handle, State, watch};
use crate::net::{Closed, FETCH_BYTES_MIN, translate, writer};
use crate::rt::local::{Either, select2};
use crate::wire::{self, FrameError, FrameReader, HEADER_BYTES, Header, Reply, Request, encode_fetched};

/// After this many bytes of requests the other tasks of the shard get their turn.
const TURN_BYTES: usize = 256 << 10;
/// A frame that is too large is read and discarded up to this size; beyond it the connection closes.
const DISCARD_BYTES_MAX: usize = 128 << 20;
/// Longest long poll, so that a fetch does not outlive its client by much.
const FETCH_WAIT_MS_MAX: u32 = 60_000;
/// Bound of what a fetch reply says about one handle, beside an error's text.
const FETCHED_BYTES: usize = 64;

/// Serves the connection to its end, and says why it ended.
pub(super) async fn run(connection: Rc<Connection>) -> Closed {
    connection.rt.spawn(writer::run(connection.clone()));
    connection.rt.spawn(watch(connection.clone()));
    let why = read(&connection).await;
    connection.drain(why);
    while connection.state.get() != State::Dead {
        connection.room.wait().await;
    }
    connection.why.get()
}

async fn read(connection: &Rc<Connection>) -> Closed {
    let mut frames = connection.take_frames();
    loop {
        if let Err(why) = take_requests(connection, &mut frames).await {
            return why;
        }
        let large = frames.large_bytes();
        if large > 0
            && connection.incoming.borrow().is_none()
            && let Err(why) = lease(connection, large).await
        {
            return why;
        }
        match select2(connection.stream.read(frames.space()), connection.nudge.wait()).await {
            Either::First(Ok(0)) => return Closed::Peer,
            Either::First(Err(_)) => {
                // Reset: nobody waits for replies any more.
                connection.kill(Closed::Peer);
                return Closed::Peer;
            }
            Either::First(Ok(count)) => {
                frames.filled(count);
                connection.reads.set(connection.reads.get() + 1);
            }
            Either::Second(()) => frames.relax(),
        }
    }
}

/// Waits for the memory of a large frame that has begun, so that all of them together are bounded.
async fn lease(connection: &Rc<Connection>, bytes: usize) -> Result<(), Closed> {
    let mut lease = pin!(connection.memory.incoming.wait(bytes));
    loop {
        match select2(&mut lease, connection.room.wait()).await {
            Either::First(lease) => {
                *connection.incoming.borrow_mut() = Some(lease);
                connection.arriving.set(Some((connection.rt.now(), bytes)));
                return Ok(());
            }
            Either::Second(()) if connection.state.get() != State::Open => return Err(Closed::Peer),
            Either::Second(()) => {}
        }
    }
}

/// Handles every whole frame that has arrived.
async fn take_requests(connection: &Rc<Connection>, frames: &mut FrameReader) -> Result<(), Closed> {
    let mut turn_bytes = 0;
    loop {
        while !connection.has_room() {
            if connection.state.get() != State::Open {
                return Err(Closed::Peer);
            }
            connection.room.wait().await;
        }
        match frames.next() {
            Ok(None) => return Ok(()),
            Ok(Some((header, body))) => {
                turn_bytes += header.frame_bytes();
                connection.arriving.set(None);
                handle_frame(connection, header, body).await?;
                drop(connection.incoming.take());
            }
            Err(FrameError::TooLarge { bytes, bytes_max }) => {
                let text = format!("a frame of {bytes} bytes: this broker accepts up to {bytes_max}");
                let header = frames.skip_too_large().ok_or(Closed::Garbage)?;
                fail(connection, &header, Failure::new(ErrorCode::MessageTooLarge, text));
                if bytes > DISCARD_BYTES_MAX {
                    return Err(Closed::Garbage);
                }
            }
            Err(FrameError::TooShort | FrameError::NotNative) => return Err(Closed::Garbage),
        }
        if turn_bytes >= TURN_BYTES {
            turn_bytes = 0;
            connection.rt.yield_now().await;
        }
    }
}

/// Answers a request that did not reach the shard.
fn fail(connection: &Connection, header: &Header, failure: Failure) {
    connection.say(|out| Reply::Error(failure).encode(header, out));
}

async fn handle_frame(connection: &Rc<Connection>, header: Header, body: Bytes) -> Result<(), Closed> {
    let Some(op) = header.op() else {
        if !header.is_optional() {
            let text = format!("op {} is not known in this version of the protocol", header.op);
            fail(connection, &header, Failure::new(ErrorCode::UnsupportedVersion, text));
        }
        return Ok(());
    };
    let request = match Request::decode(op, &body) {
        Ok(request) if !header.is_reply() => request,
        Ok(_) => return Err(Closed::Garbage),
        Err(error) => {
            let text = format!("{} request: {error}", op.name());
            fail(connection, &header, Failure::new(ErrorCode::InvalidRequest, text));
            return Err(Closed::Garbage);
        }
    };
    match request {
        Request::Ping => connection.say(|out| Reply::Ping.encode(&header, out)),
        Request::Close => {
            connection.handles.borrow_mut().open.remove(&header.handle);
            connection.say(|out| Reply::Close.encode(&header, out));
        }
        Request::Hello(_) => {
            let text = "a hello is said once, first";
            fail(connection, &header, Failure::new(ErrorCode::InvalidRequest, text));
        }
        Request::Produce(produce) => {
            if let Some(room) = connection.service.produce_room() {
                park(connection, room).await?;
            }
            produce_batch(connection, header, produce);
        }
        Request::Fetch(fetch) => {
            fetch_room(connection).await?;
            fetch_batches(connection, header, fetch);
        }
        Request::Open { .. } => open(connection, header, request),
        Request::ListOffsets { at } => with_handle(connection, header, |partition| {
            api::Request::ListOffsets { partition, at: translate::at(at) }
        }),
        Request::DeleteRecords { before } => {
            with_handle(connection, header, |partition| api::Request::DeleteRecords { partition, before })
        }
        other => {
            let request = translate::request(other).expect("every other request goes to the shard");
            plain(connection, header, request);
        }
    }
    Ok(())
}

/// Once others hold all that there is for replies, a connection has one fetch under way.
async fn fetch_room(connection: &Connection) -> Result<(), Closed> {
    while connection.memory.replies.left() < FETCH_BYTES_MIN && connection.has_fetched() {
        if connection.state.get() != State::Open {
            return Err(Closed::Peer);
        }
        connection.room.wait().await;
    }
    Ok(())
}

/// Waits until there is room for produce, or the connection is dead.
async fn park(
    connection: &Connection,
    mut room: std::pin::Pin<Box<dyn Future<Output = ()>>>,
) -> Result<(), Closed> {
    while let Either::Second(()) = select2(&mut room, connection.room.wait()).await {
        if connection.state.get() != State::Open {
            return Err(Closed::Peer);
        }
    }
    Ok(())
}

/// A request whose reply needs nothing but its header.
fn plain(connection: &Rc<Connection>, header: Header, request: api::Request) {
    connection.begin();
    let shared = connection.clone();
    let done: Done = Box::new(move |result| shared.finish(|out| encode(&shared, &header, result, out)));
    connection.service.request(request, done);
}

fn encode(connection: &Connection, header: &Header, result: Result<api::Reply, Failure>, out: &mut Vec<u8>) {
    let start = out.len();
    match result {
        Ok(reply) => translate::reply(reply).encode(header, out),
        Err(failure) => Reply::Error(failure).encode(header, out),
    }
    let bytes = out.len() - start;
    if bytes > connection.client_frame_bytes_max as usize {
        out.truncate(start);
        Reply::Error(too_large(connection, bytes)).encode(header, out);
    }
}

fn too_large(connection: &Connection, bytes: usize) -> Failure {
    let bound = connection.client_frame_bytes_max;
    let text = format!("the answer has {bytes} bytes, and this client accepts frames of up to {bound}");
    Failure::new(ErrorCode::MessageTooLarge, text)
}

fn not_open(handle: u32) -> Failure {
    let text = format!("handle {handle} is not open on this connection: open the partition first");
    Failure::new(ErrorCode::InvalidRequest, text)
}

fn partition_of(connection: &Connection, handle: u32) -> Result<PartitionId, Failure> {
    let handles = connection.handles.borrow();
    handles.open.get(&handle).map(|handle| handle.partition).ok_or_else(|| not_open(handle))
}

fn with_handle(
    connection: &Rc<Connection>,
    header: Header,
    request: impl FnOnce(PartitionId) -> api::Request,
) {
    match partition_of(connection, header.handle) {
        Ok(partition) => plain(connection, header, request(partition)),
        Err(failure) => fail(connection, &header, failure),
    }
}

fn open(connection: &Rc<Connection>, header: Header, request: Request) {
    connection.begin();
    let shared = connection.clone();
    let done: Done = Box::new(move |result| {
        let reply = match result {
            Ok(api::Reply::Opened(opened)) => bind(&shared, opened),
            Ok(_) => unreachable!("an open is answered by opened"),
            Err(failure) => Reply::Error(failure),
        };
        shared.finish(|out| reply.encode(&header, out));
    });
    let request = translate::request(request).expect("an open needs no handle");
    connection.service.request(request, done);
}

fn bind(connection: &Connection, opened: api::Opened) -> Reply {
    let mut handles = connection.handles.borrow_mut();
    let bound = connection.limits.handles_max;
    if handles.open.len() >= bound as usize {
        let text = format!("{bound} handles are open on this connection: close some, or connect once more");
        return Reply::Error(Failure::new(ErrorCode::PolicyViolation, text));
    }
    // Not reused while any other number is free: a late request must not meet another partition.
    loop {
        handles.last = handles.last.wrapping_add(1);
        if handles.last != 0 && !handles.open.contains_key(&handles.last) {
            break;
        }
    }
    let handle = handles.last;
    let bound = Handle { partition: opened.partition, order: Rc::default() };
    handles.open.insert(handle, bound);
    translate::opened(handle, opened)
}

fn produce_batch(connection: &Rc<Connection>, header: Header, produce: wire::Produce) {
    let handles = connection.handles.borrow();
    let acks = translate::acks(produce.acks);
    let Some(handle) = handles.open.get(&header.handle) else {
        if acks != api::Acks::None {
            fail(connection, &header, not_open(header.handle));
        }
        return;
    };
    let (partition, order) = (handle.partition, handle.order.clone());
    drop(handles);
    connection.begin();
    let shared = connection.clone();
    let done: Done = if acks == api::Acks::None {
        Box::new(move |_| shared.finish(|_| {}))
    } else {
        let ticket = order.borrow_mut().begin();
        Box::new(move |result| {
            let mut reply = Vec::with_capacity(HEADER_BYTES + 24);
            encode(&shared, &header, result, &mut reply);
            let mut order = order.borrow_mut();
            let ready = order.finish(ticket, reply);
            shared.finish(|out| ready.for_each(|reply| out.extend_from_slice(&reply)));
        })
    };
    let batch = produce.batch;
    connection.service.request(api::Request::Produce(api::Produce { partition, acks, batch }), done);
}

fn fetch_batches(connection: &Rc<Connection>, header: Header, fetch: wire::Fetch) {
    let (count, bound) = (fetch.handles.len(), connection.limits.handles_max as usize);
    if count > bound {
        let text = format!("a fetch of {count} entries: a connection has at most {bound} handles");
        return fail(connection, &header, Failure::new(ErrorCode::InvalidRequest, text));
    }
    let mut partitions = Vec::with_capacity(fetch.handles.len());
    let mut handles = Vec::with_capacity(fetch.handles.len());
    let mut named = Set::default();
    for entry in &fetch.handles {
        match partition_of(connection, entry.handle) {
            Ok(partition) if !named.insert(partition) => {
                let text =
                    format!("a fetch names handle {} of a partition that it names already", entry.handle);
                return fail(connection, &header, Failure::new(ErrorCode::InvalidRequest, text));
            }
            Ok(partition) => {
                let (offset, bytes_max) = (entry.offset, entry.bytes_max);
                partitions.push(api::FetchPartition { partition, offset, bytes_max });
                handles.push((partition, entry.handle));
            }
            Err(failure) => return fail(connection, &header, failure),
        }
    }
    let head = HEADER_BYTES + FETCHED_BYTES * handles.len();
    let room = connection.client_frame_bytes_max.saturating_sub(head as u32);
    // Pipelined fetches share what the connection may hold: they may all be answered at once.
    let left = connection.reply_bytes_left().max(FETCH_BYTES_MIN);
    let bytes_max = fetch
        .bytes_max
        .min(room)
        .min(connection.limits.fetch_bytes_max)
        .min(u32::try_from(left).unwrap_or(u32::MAX));
    connection.begin();
    connection.promise(bytes_max);
    let shared = connection.clone();
    let done: Done = Box::new(move |result| {
        shared.keep_promise(bytes_max);
        match result {
            Ok(api::Reply::Fetched(fetched)) => answer_fetch(&shared, &header, &handles, fetched),
            Ok(_) => unreachable!("a fetch is answered by fetched"),
            Err(failure) => shared.finish(|out| Reply::Error(failure).encode(&header, out)),
        }
    });
    let (wait_ms_max, bytes_min) = (fetch.wait_ms_max.min(FETCH_WAIT_MS_MAX), fetch.bytes_min);
    let request = api::Fetch { wait_ms_max, bytes_min, bytes_max, partitions };
    connection.service.request(api::Request::Fetch(request), done);
}

fn answer_fetch(
    connection: &Connection,
    header: &Header,
    handles: &[(PartitionId, u32)],
    fetched: Vec<api::FetchedPartition>,
) {
    let mut entries = Vec::with_capacity(fetched.len());
    let mut chunks = Vec::new();
    let mut place = 0;
    let mut bytes = HEADER_BYTES;
    for partition in fetched {
        // The shard answers in the order of the request, perhaps not all of them.
        let ahead = handles.iter().cycle().skip(place).take(handles.len());
        let found = ahead.enumerate().find(|(_, (wanted, _))| *wanted == partition.partition);
        let (distance, (_, handle)) = found.expect("the shard answers only what was asked");
        place = (place + distance + 1) % handles.len();
        let records_bytes: usize = partition.chunks.iter().map(|chunk| chunk.len()).sum();
        bytes += records_bytes + FETCHED_BYTES;
        entries.push(wire::FetchedHandle {
            handle: *handle,
            records_bytes: u32::try_from(records_bytes).expect("a fetch reply is bounded far below 4 GiB"),
            high_watermark: partition.high_watermark,
            log_start: partition.log_start,
            next_offset: partition.next_offset,
            error: partition.error,
        });
        chunks.extend(partition.chunks);
    }
    if bytes > connection.client_frame_bytes_max as usize {
        let failure = too_large(connection, bytes);
        return connection.finish(|out| Reply::Error(failure).encode(header, out));
    }
    connection.finish_with_chunks(|out| encode_fetched(out, header, &entries), chunks);
}

//! The first words of a connection: preface, hello, and which shard is to serve it.
//!
//! Floor 4. Owner: shard. A client says nothing after its hello until the answer, so a socket can
//! be handed over with the few bytes that were read, and the other shard begins anew with them.

use crate::model::{ErrorCode, Failure};
use crate::net::{Closed, HELLO_DEADLINE, Limits, Service};
use crate::rt::{Rt, Stream, local};
use crate::wire::{
    ANY_SHARD, FrameReader, Header, Hello, HelloReply, Op, Reply, Request, VERSION_MAX, VERSION_MIN,
};

/// A hello is short; whatever is longer is something else.
const HELLO_BYTES_MAX: u32 = 2048;
/// A client that accepts less could not take an error with its text.
const CLIENT_FRAME_BYTES_MIN: u32 = 8192;

pub(super) enum Handshake {
    Served(Session),
    Elsewhere { shard: u32, preface: Vec<u8> },
}

/// What the hello agreed on.
pub(super) struct Session {
    pub frames: FrameReader,
    pub limits: Limits,
    /// Largest frame that the client accepts.
    pub client_frame_bytes_max: u32,
}

/// Reads the hello and answers it, unless another shard is wanted.
pub(super) async fn greet(
    rt: &Rt,
    service: &dyn Service,
    stream: &Stream,
    preface: Vec<u8>,
) -> Result<Handshake, Closed> {
    let hello = local::timeout(rt, HELLO_DEADLINE, read_hello(stream, preface)).await;
    let Greeting { header, hello, received, mut frames } = hello.ok_or(Closed::Silent)??;
    let Some(version) = hello.version() else {
        let text = format!(
            "this broker speaks versions {VERSION_MIN} to {VERSION_MAX} of the protocol, the client {} to {}",
            hello.version_min, hello.version_max
        );
        return refuse(stream, &header, ErrorCode::UnsupportedVersion, text).await;
    };
    let wanted = hello.shard;
    if wanted != ANY_SHARD && wanted < service.count() && wanted != service.index() {
        return Ok(Handshake::Elsewhere { shard: wanted, preface: received });
    }
    if hello.frame_bytes_max < CLIENT_FRAME_BYTES_MIN {
        let text = format!("a client accepts frames of at least {CLIENT_FRAME_BYTES_MIN} bytes");
        return refuse(stream, &header, ErrorCode::InvalidRequest, text).await;
    }
    let limits = service.limits();
    let answer = HelloReply {
        version,
        shard: service.index(),
        shards: service.count(),
        frame_bytes_max: limits.frame_bytes_max,
        features: 0,
        broker_epoch: service.broker_epoch(),
        handles_max: limits.handles_max,
        requests_max: limits.requests_max,
    };
    send(stream, &header, &Reply::Hello(answer)).await?;
    frames.set_frame_bytes_max(limits.frame_bytes_max);
    Ok(Handshake::Served(Session { frames, limits, client_frame_bytes_max: hello.frame_bytes_max }))
}

struct Greeting {
    header: Header,
    hello: Hello,
    /// Every byte so far, for the shard that may have to read it again.
    received: Vec<u8>,
    frames: FrameReader,
}

async fn read_hello(stream: &Stream, preface: Vec<u8>) -> Result<Greeting, Closed> {
    let mut frames = FrameReader::new(HELLO_BYTES_MAX);
    let mut received = preface;
    frames.push(&received);
    while !frames.take_preface().map_err(|_| Closed::Garbage)? {
        fill(stream, &mut frames, &mut received).await?;
    }
    let (header, body) = loop {
        match frames.next().map_err(|_| Closed::Garbage)? {
            Some(frame) => break frame,
            None => fill(stream, &mut frames, &mut received).await?,
        }
    };
    match (header.op(), Request::decode(Op::Hello, &body)) {
        (Some(Op::Hello), Ok(Request::Hello(hello))) => Ok(Greeting { header, hello, received, frames }),
        _ => refuse(stream, &header, ErrorCode::InvalidRequest, "the first frame must be a hello").await,
    }
}

async fn fill(stream: &Stream, frames: &mut FrameReader, received: &mut Vec<u8>) -> Result<(), Closed> {
    let space = frames.space();
    let count = stream.read(space).await.map_err(|_| Closed::Peer)?;
    if count == 0 {
        return Err(Closed::Peer);
    }
    received.extend_from_slice(&space[..count]);
    frames.filled(count);
    Ok(())
}

async fn refuse<T>(
    stream: &Stream,
    header: &Header,
    code: ErrorCode,
    text: impl Into<String>,
) -> Result<T, Closed> {
    send(stream, header, &Reply::Error(Failure::new(code, text))).await?;
    Err(Closed::Garbage)
}

async fn send(stream: &Stream, header: &Header, reply: &Reply) -> Result<(), Closed> {
    let mut out = Vec::new();
    reply.encode(header, &mut out);
    stream.write_all_vectored(&[&out]).await.map_err(|_| Closed::Peer)
}

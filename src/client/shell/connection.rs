//! One connection: bytes between a socket and a machine's driver.
//!
//! Floor 5; one task. It knows frames and nothing of what is in them.

use std::io::{self, IoSlice};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::client::session::{Event, LinkId};
use crate::wire::FrameReader;

/// Head and body of a frame.
pub(super) type Piece = (Vec<u8>, Bytes);

/// Frames written by one call.
const PIECES_MAX: usize = 32;

/// Runs until the connection fails or the driver drops its side. The number of pieces under way
/// is bounded by the machine.
pub(super) async fn run(
    link: LinkId,
    address: String,
    frame_bytes_max: u32,
    pieces: UnboundedReceiver<Piece>,
    events: UnboundedSender<Event>,
) {
    let reason = match TcpStream::connect(&address).await {
        Ok(stream) => exchange(link, stream, frame_bytes_max, pieces, &events).await,
        Err(error) => format!("{address}: {error}"),
    };
    // The driver may be gone already; then nobody wants to know.
    let _ = events.send(Event::Closed { link, reason });
}

async fn exchange(
    link: LinkId,
    stream: TcpStream,
    frame_bytes_max: u32,
    pieces: UnboundedReceiver<Piece>,
    events: &UnboundedSender<Event>,
) -> String {
    // Requests are written whole: waiting for more bytes would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        return error.to_string();
    }
    let _ = events.send(Event::Connected { link });
    let (reading, writing) = stream.into_split();
    tokio::select! {
        biased;
        reason = write(link, writing, pieces, events) => reason,
        reason = read(link, reading, frame_bytes_max, events) => reason,
    }
}

async fn read(
    link: LinkId,
    mut stream: OwnedReadHalf,
    frame_bytes_max: u32,
    events: &UnboundedSender<Event>,
) -> String {
    let mut frames = FrameReader::new(frame_bytes_max);
    loop {
        loop {
            match frames.next() {
                Ok(Some((header, body))) => {
                    let _ = events.send(Event::Frame { link, header, body });
                }
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
    mut stream: OwnedWriteHalf,
    mut pieces: UnboundedReceiver<Piece>,
    events: &UnboundedSender<Event>,
) -> String {
    let mut batch = Vec::with_capacity(PIECES_MAX);
    loop {
        batch.clear();
        if pieces.recv_many(&mut batch, PIECES_MAX).await == 0 {
            return "closed by this client".into();
        }
        match write_all(&mut stream, &batch).await {
            Ok(bytes) => {
                let _ = events.send(Event::Written { link, bytes });
            }
            Err(error) => return error.to_string(),
        }
    }
}

async fn write_all(stream: &mut OwnedWriteHalf, pieces: &[Piece]) -> io::Result<usize> {
    let slices = pieces.iter().flat_map(|(head, body)| [&head[..], &body[..]]);
    let mut slices: Vec<IoSlice> = slices.filter(|slice| !slice.is_empty()).map(IoSlice::new).collect();
    let mut left = &mut slices[..];
    let mut total = 0;
    while !left.is_empty() {
        let count = stream.write_vectored(left).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        total += count;
        IoSlice::advance_slices(&mut left, count);
    }
    Ok(total)
}

//! What the disk and the loopback can do by themselves, through the same runtime as the broker.
//!
//! Owner: ringbench. One executor (disk) or two (loopback); a few seconds each. Files lie in a folder of
//! their own, which goes when the measurement does.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use ringlog::base::lock;
use ringlog::rt::{File, Rt, World, local::Event, mesh};

use crate::progress::say;
use crate::stats::{self, Latency};

/// How long each ceiling is measured beside other figures.
pub const DURATION: Duration = Duration::from_secs(2);

const FILE_BYTES: u64 = 256 << 20;
const APPEND_FILE_BYTES: u64 = 128 << 20;
/// Larger than what the disk's own cache may answer quickly.
pub const READ_FILE_BYTES: u64 = 2 << 30;
const LARGE_BYTES: usize = 1 << 20;
const SMALL_BYTES: usize = 4 << 10;
const SCATTERED_BYTES: usize = 64 << 10;
const WRITES: usize = 4;
const READS: usize = 8;
const SEND_BYTES: usize = 256 << 10;
/// A file may be made in a folder while it is removed.
const REMOVALS: usize = 3;

/// What appends meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Written before: what the broker prepares while its blocks are small.
    Zeroed,
    /// Allocated and never written: each write also changes the filesystem's own records.
    Unwritten,
}

/// Folders of measurements under way. An interruption does not wait for those.
static SCRATCHES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A folder that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: &Path) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("ringbench-{}-disk-{number}", std::process::id()));
        lock(&SCRATCHES).push(path.clone());
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut scratches = lock(&SCRATCHES);
        let count = scratches.len();
        scratches.retain(|path| *path != self.0);
        if scratches.len() < count {
            remove(&self.0);
        }
    }
}

/// Removes the folders of measurements that nobody waits for any more. They may be writing still.
pub fn forget() {
    std::mem::take(&mut *lock(&SCRATCHES)).iter().for_each(|path| remove(path));
}

fn remove(path: &Path) {
    for left in (0..REMOVALS).rev() {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if left == 0 => say(&format!("{} was left behind: {error}", path.display())),
            Err(_) => {}
            Ok(()) => return,
        }
    }
}

fn told(what: &str, error: &io::Error) -> String {
    format!("{what}: {error}")
}

/// Bytes per second of durable 1 MiB writes, four in flight, into files allocated whole.
pub fn disk_write(dir: &Path, duration: Duration) -> Result<f64, String> {
    let scratch = Scratch::new(dir);
    let path = scratch.0.clone();
    measure(move |rt| async move { write_rate(&rt, path, duration).await })
        .map_err(|error| told("disk", &error))
}

/// Microseconds of one durable 4 KiB append after the other.
pub fn disk_append(dir: &Path, duration: Duration, blocks: Blocks) -> Result<Latency, String> {
    let scratch = Scratch::new(dir);
    let path = scratch.0.clone();
    measure(move |rt| async move { append_latency(&rt, path, duration, blocks).await })
        .map_err(|error| told("disk", &error))
}

/// Bytes per second of direct reads, eight in flight, from a file of so many bytes: 1 MiB in sequence, and
/// 64 KiB here and there.
pub fn disk_reads(dir: &Path, duration: Duration, file_bytes: u64) -> Result<(f64, f64), String> {
    let scratch = Scratch::new(dir);
    let path = scratch.0.clone();
    measure(move |rt| async move { read_rates(&rt, path, duration, file_bytes).await })
        .map_err(|error| told("disk", &error))
}

/// Bytes per second through one loopback connection between two executors.
pub fn loopback(duration: Duration) -> Result<f64, String> {
    loopback_rate(duration).map_err(|error| told("loopback", &error))
}

fn loopback_rate(duration: Duration) -> io::Result<f64> {
    let world = World::real();
    let cpus = world.cpus();
    let (address_to, mut address) = mesh::channel::<io::Result<SocketAddr>>();
    let receiver = move |rt: Rt| async move {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = match rt.listen(any).await {
            Ok(listener) => listener,
            Err(error) => return address_to.send(Err(error)),
        };
        address_to.send(Ok(listener.local()));
        let mut buffer = vec![0; SEND_BYTES];
        if let Ok(stream) = listener.accept().await {
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        }
    };
    let receiver = world.executor("loopback", cpus.get(1).copied(), receiver)?;
    let rate = measure(move |rt| async move {
        let address = address.recv().await.unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))?;
        let stream = rt.connect(address).await?;
        let buffer = vec![7; SEND_BYTES];
        let start = rt.now();
        let mut bytes = 0u64;
        while rt.now() - start < duration {
            stream.write_all_vectored(&[&buffer]).await?;
            bytes += SEND_BYTES as u64;
        }
        let rate = bytes as f64 / (rt.now() - start).as_secs_f64();
        stream.shutdown();
        Ok(rate)
    });
    receiver.join_blocking();
    rate
}

/// Runs `work` on an executor of its own and waits for what it answers.
fn measure<T, F, Fut>(work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce(Rt) -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<T>> + 'static,
{
    let world = World::real();
    let cpu = world.cpus().first().copied();
    let (send, receive) = mpsc::channel();
    let joiner = world.executor("ceiling", cpu, move |rt| async move {
        // The receiver outlives the executor: it is joined below.
        let _ = send.send(work(rt).await);
    })?;
    joiner.join_blocking();
    receive.recv().unwrap_or_else(|_| Err(io::Error::other("the measurement ended early")))
}

/// Takes the positions of operations out of `take` until it gives none, `count` at a time.
async fn in_flight<Fut>(
    rt: &Rt,
    count: usize,
    take: impl FnMut() -> Option<u64> + 'static,
    operate: impl Fn(u64) -> Fut + 'static,
) -> io::Result<()>
where
    Fut: Future<Output = io::Result<()>> + 'static,
{
    let (take, operate) = (Rc::new(RefCell::new(take)), Rc::new(operate));
    let (left, failed, done) = (Rc::new(Cell::new(count)), Rc::new(Cell::new(None)), Event::new());
    for _ in 0..count {
        let (take, operate) = (take.clone(), operate.clone());
        let (left, failed, done) = (left.clone(), failed.clone(), done.clone());
        rt.spawn(async move {
            loop {
                let Some(position) = (take.borrow_mut())() else { break };
                if let Err(error) = operate(position).await {
                    failed.set(Some(error));
                    break;
                }
            }
            left.set(left.get() - 1);
            done.notify();
        });
    }
    while left.get() > 0 {
        done.wait().await;
    }
    failed.take().map_or(Ok(()), Err)
}

/// Positions one after the other up to the end of a file.
fn in_sequence(bytes: u64, step: u64) -> impl FnMut() -> Option<u64> {
    let mut next = 0;
    move || {
        let at = next;
        next += step;
        (at < bytes).then_some(at)
    }
}

async fn write_whole(rt: &Rt, file: &File, bytes: u64) -> io::Result<()> {
    let (own, file) = (rt.clone(), file.clone());
    let write = move |at| {
        let (file, mut buffer) = (file.clone(), own.buffer(LARGE_BYTES));
        buffer.fill(0x5a);
        async move { file.write_durable(buffer.freeze(), at).await }
    };
    in_flight(rt, WRITES, in_sequence(bytes, LARGE_BYTES as u64), write).await
}

async fn write_rate(rt: &Rt, dir: PathBuf, duration: Duration) -> io::Result<f64> {
    let folder = rt.create_folder(&dir).await?;
    let start = rt.now();
    let mut spent = Duration::ZERO;
    let (mut number, mut bytes) = (0, 0u64);
    // Making and removing files is not what is measured, but it must not take for ever either.
    while spent < duration && rt.now() - start < duration * 10 {
        let name = format!("{number:04}.disk");
        let file = folder.create(&name, FILE_BYTES).await?;
        folder.sync().await?;
        let begin = rt.now();
        write_whole(rt, &file, FILE_BYTES).await?;
        spent += rt.now() - begin;
        bytes += FILE_BYTES;
        file.close().await?;
        folder.remove(&name).await?;
        number += 1;
    }
    Ok(bytes as f64 / spent.as_secs_f64())
}

async fn append_latency(rt: &Rt, dir: PathBuf, duration: Duration, blocks: Blocks) -> io::Result<Latency> {
    let folder = rt.create_folder(&dir).await?;
    let file = folder.create("append", APPEND_FILE_BYTES).await?;
    folder.sync().await?;
    if blocks == Blocks::Zeroed {
        write_whole(rt, &file, APPEND_FILE_BYTES).await?;
    }
    let mut latency = stats::latency();
    let (start, mut position) = (rt.now(), 0);
    while rt.now() - start < duration && position < APPEND_FILE_BYTES {
        let mut buffer = rt.buffer(SMALL_BYTES);
        buffer.fill(0x5a);
        let begin = rt.now();
        file.write_durable(buffer.freeze(), position).await?;
        latency.saturating_record((rt.now() - begin).as_micros() as u64);
        position += SMALL_BYTES as u64;
    }
    file.close().await?;
    Ok(latency)
}

async fn read_rates(rt: &Rt, dir: PathBuf, duration: Duration, bytes: u64) -> io::Result<(f64, f64)> {
    let folder = rt.create_folder(&dir).await?;
    let bytes = bytes.next_multiple_of(LARGE_BYTES as u64);
    let file = folder.create("read", bytes).await?;
    write_whole(rt, &file, bytes).await?;
    let large = read_rate(rt, &file, bytes, duration, LARGE_BYTES, false).await?;
    let small = read_rate(rt, &file, bytes, duration, SCATTERED_BYTES, true).await?;
    file.close().await?;
    Ok((large, small))
}

async fn read_rate(
    rt: &Rt,
    file: &File,
    file_bytes: u64,
    duration: Duration,
    bytes: usize,
    scattered: bool,
) -> io::Result<f64> {
    let (start, clock) = (rt.now(), rt.clone());
    let count = file_bytes / bytes as u64;
    let mut number = 0u64;
    let take = move || {
        if clock.now() - start >= duration {
            return None;
        }
        number += 1;
        // A step that has no common divisor with the count visits every place once.
        let index = if scattered { number.wrapping_mul(2_654_435_761) } else { number };
        Some(index % count * bytes as u64)
    };
    let (file, done) = (file.clone(), Rc::new(Cell::new(0u64)));
    let total = done.clone();
    let read = move |at| {
        let (file, done) = (file.clone(), done.clone());
        async move {
            let read = file.read_at(at, bytes).await?;
            done.set(done.get() + read.len() as u64);
            Ok(())
        }
    };
    in_flight(rt, READS, take, read).await?;
    Ok(total.get() as f64 / (rt.now() - start).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_carries_bytes_and_ends() {
        for _ in 0..5 {
            let rate = loopback(Duration::from_millis(50)).unwrap();
            assert!(rate > 1e6, "{rate} bytes per second");
        }
    }

    #[test]
    fn positions_cover_a_file_once() {
        let mut take = in_sequence(10, 4);
        assert_eq!(std::iter::from_fn(&mut take).collect::<Vec<_>>(), [0, 4, 8]);
    }
}

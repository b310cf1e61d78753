//! What the disk and the loopback can do by themselves, through the same runtime as the broker.
//!
//! Owner: ringbench. One executor (disk) or two (loopback); a few seconds each.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use ringlog::rt::{Rt, World, local::Event, mesh};

const FILE_BYTES: u64 = 256 << 20;
const WRITE_BYTES: usize = 1 << 20;
const WRITES: usize = 4;
const SEND_BYTES: usize = 256 << 10;

/// Bytes per second of durable 1 MiB writes, four in flight, into files allocated whole.
pub fn disk(dir: &Path, duration: Duration) -> io::Result<f64> {
    let dir = dir.to_path_buf();
    measure(move |rt| async move { disk_rate(&rt, dir, duration).await })
}

/// Bytes per second through one loopback connection between two executors.
pub fn loopback(duration: Duration) -> io::Result<f64> {
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
fn measure<F, Fut>(work: F) -> io::Result<f64>
where
    F: FnOnce(Rt) -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<f64>> + 'static,
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

async fn disk_rate(rt: &Rt, dir: PathBuf, duration: Duration) -> io::Result<f64> {
    let folder = rt.create_folder(&dir).await?;
    let start = rt.now();
    let mut spent = Duration::ZERO;
    let (mut number, mut bytes) = (0, 0u64);
    while spent < duration {
        let name = format!("{number:04}.disk");
        let file = folder.create(&name, FILE_BYTES).await?;
        folder.sync().await?;
        let begin = rt.now();
        let (next, left) = (Rc::new(Cell::new(0u64)), Rc::new(Cell::new(WRITES)));
        let (done, failed) = (Event::new(), Rc::new(Cell::new(None)));
        for _ in 0..WRITES {
            let (rt, file, next) = (rt.clone(), file.clone(), next.clone());
            let (left, done, failed) = (left.clone(), done.clone(), failed.clone());
            rt.clone().spawn(async move {
                while next.get() < FILE_BYTES {
                    let at = next.replace(next.get() + WRITE_BYTES as u64);
                    let mut buffer = rt.buffer(WRITE_BYTES);
                    buffer.fill(0x5a);
                    if let Err(error) = file.write_durable(buffer.freeze(), at).await {
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
        if let Some(error) = failed.take() {
            return Err(error);
        }
        // Making and removing files is not what is measured.
        spent += rt.now() - begin;
        bytes += FILE_BYTES;
        file.close().await?;
        folder.remove(&name).await?;
        number += 1;
        if rt.now() - start > duration * 10 {
            break;
        }
    }
    Ok(bytes as f64 / spent.as_secs_f64())
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
}

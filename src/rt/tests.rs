//! The same bodies run in both worlds: what code above may expect of either.
//!
//! Floor 1.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::local::{Either, Event, join2, select2, timeout};
use super::*;

/// Runs `body` on one executor of the real world, in a folder of its own.
fn real<F, Fut>(body: F)
where
    F: FnOnce(World, Rt, PathBuf) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let world = World::real();
    let inner = world.clone();
    let joiner = world.executor("test", None, move |rt| body(inner, rt, path)).unwrap();
    joiner.join_blocking();
}

/// Runs `body` on one executor of a simulated world.
fn simulated<F, Fut>(body: F)
where
    F: FnOnce(World, Rt, PathBuf) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let simulation = sim::Simulation::new(7, sim::Faults::default(), false);
    let machine = simulation.machine(1 << 30);
    let (process, world) = simulation.process(machine);
    simulation.start(process, "test", |rt| body(world, rt, PathBuf::from("/tmp/x")));
    let stop = simulation.run(Instant::ZERO + Duration::from_secs(600), || !simulation.is_alive(process));
    assert_eq!(stop, sim::Stop::Done);
}

macro_rules! in_both_worlds {
    ($($name:ident)*) => {
        mod in_real_world {
            $(#[test] fn $name() { super::real(super::$name); })*
        }
        mod in_simulated_world {
            $(#[test] fn $name() { super::simulated(super::$name); })*
        }
    };
}

in_both_worlds! {
    files_keep_what_is_written
    folders_list_rename_and_remove
    locks_exclude
    durable_writes_of_many_tasks
    streams_carry_bytes_both_ways
    a_full_socket_makes_the_writer_wait
    sockets_change_executors
    shutdown_ends_both_directions
    mesh_wakes_across_executors
    events_are_not_lost
    tasks_sleep_and_offload
    ports_are_checked
}

fn filled(rt: &Rt, bytes: usize, byte: u8) -> Buf {
    let mut buffer = rt.buffer(bytes);
    buffer.fill(byte);
    buffer.freeze()
}

async fn files_keep_what_is_written(_: World, rt: Rt, path: PathBuf) {
    let folder = rt.create_folder(&path.join("a/b")).await.unwrap();
    let file = folder.create("log", 64 << 10).await.unwrap();
    assert_eq!(folder.create("log", 4096).await.err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(file.bytes().await.unwrap(), 64 << 10);
    file.write_at(filled(&rt, 8192, 7), 4096).await.unwrap();
    file.flush().await.unwrap();
    let read = file.read_at(0, 16384).await.unwrap();
    assert_eq!(read.len(), 16384);
    assert!(read[..4096].iter().all(|&byte| byte == 0));
    assert!(read[4096..12288].iter().all(|&byte| byte == 7));
    assert_eq!(file.read_at(60 << 10, 16384).await.unwrap().len(), 4096);
    assert_eq!(file.read_at(64 << 10, 4096).await.unwrap().len(), 0);
    // What was read can be written.
    file.write_at(read, 32 << 10).await.unwrap();
    file.allocate(128 << 10).await.unwrap();
    assert_eq!(file.bytes().await.unwrap(), 128 << 10);
    file.truncate(40 << 10).await.unwrap();
    file.clone().close().await.unwrap();
    drop(file);
    let file = folder.open("log", Access::Read).await.unwrap();
    assert_eq!(file.bytes().await.unwrap(), 40 << 10);
    let read = file.read_at(36 << 10, 8192).await.unwrap();
    assert_eq!((read.len(), read[0]), (4096, 7));
    assert_eq!(folder.open("none", Access::Read).await.err().unwrap().kind(), io::ErrorKind::NotFound);
    assert_eq!(folder.open("../b", Access::Read).await.err().unwrap().kind(), io::ErrorKind::InvalidInput);
    let space = folder.space().await.unwrap();
    assert!(space.available <= space.total && space.total > 1 << 20);
    file.close().await.unwrap();
}

async fn folders_list_rename_and_remove(_: World, rt: Rt, path: PathBuf) {
    assert_eq!(rt.folder(&path.join("none")).await.err().unwrap().kind(), io::ErrorKind::NotFound);
    let folder = rt.create_folder(&path).await.unwrap();
    folder.create("b", 4096).await.unwrap().close().await.unwrap();
    folder.create("a", 8192).await.unwrap().close().await.unwrap();
    let inner = folder.create_folder("c").await.unwrap();
    inner.create("deep", 0).await.unwrap();
    assert!(inner.path().ends_with("c"));
    folder.create_folder("c").await.unwrap();
    folder.rename("b", "a").await.unwrap();
    folder.sync().await.unwrap();
    let entries = folder.list().await.unwrap();
    let seen: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.is_folder)).collect();
    assert_eq!(seen, [("a", false), ("c", true)]);
    assert_eq!(entries[0].bytes, 4096);
    folder.remove("a").await.unwrap();
    assert_eq!(folder.remove("a").await.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(folder.folder("c").await.unwrap().list().await.unwrap().len(), 1);
}

async fn locks_exclude(_: World, rt: Rt, path: PathBuf) {
    let folder = rt.create_folder(&path).await.unwrap();
    let lock = folder.lock("lock").await.unwrap();
    assert!(lock.is_some());
    assert!(folder.lock("lock").await.unwrap().is_none());
    drop(lock);
    assert!(folder.lock("lock").await.unwrap().is_some());
    let file = folder.create("log", 4096).await.unwrap();
    assert!(file.lock().await.unwrap());
    let other = folder.open("log", Access::Write).await.unwrap();
    assert!(!other.lock().await.unwrap());
    file.close().await.unwrap();
    assert!(other.lock().await.unwrap());
}

async fn durable_writes_of_many_tasks(_: World, rt: Rt, path: PathBuf) {
    let folder = rt.create_folder(&path).await.unwrap();
    let file = folder.create("log", 1 << 20).await.unwrap();
    let left = Rc::new(Cell::new(16));
    let done = Event::new();
    for index in 0..16u64 {
        let (rt2, file, left, done) = (rt.clone(), file.clone(), left.clone(), done.clone());
        rt.spawn(async move {
            for round in 0..4 {
                let position = (index * 4 + round) * 4096;
                file.write_durable(filled(&rt2, 4096, index as u8 + 1), position).await.unwrap();
            }
            left.set(left.get() - 1);
            done.notify();
        });
    }
    while left.get() > 0 {
        done.wait().await;
    }
    file.flush().await.unwrap();
    let read = file.read_at(0, 64 * 4096).await.unwrap();
    for (page, bytes) in read.chunks(4096).enumerate() {
        assert!(bytes.iter().all(|&byte| byte == page as u8 / 4 + 1));
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn pair(rt: &Rt) -> (Stream, Stream) {
    let listener = rt.listen(any_port()).await.unwrap();
    let (accepted, connected) = join2(listener.accept(), rt.connect(listener.local())).await;
    let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
    assert_eq!(connected.peer(), listener.local());
    (accepted, connected)
}

async fn read_exact(stream: &Stream, bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    let mut at = 0;
    while at < bytes {
        let count = stream.read(&mut all[at..]).await.unwrap();
        assert!(count > 0, "the stream ended early");
        at += count;
    }
    all
}

async fn streams_carry_bytes_both_ways(_: World, rt: Rt, _: PathBuf) {
    let (server, client) = pair(&rt).await;
    client.write_all_vectored(&[b"", b"hel", b"", b"lo", b""]).await.unwrap();
    assert_eq!(read_exact(&server, 5).await, b"hello");
    let parts: Vec<Vec<u8>> = (0..200).map(|index| vec![index as u8; index]).collect();
    let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    server.write_all_vectored(&slices).await.unwrap();
    assert_eq!(read_exact(&client, 199 * 100).await, parts.concat());
    // A clone reads while another waits to be woken.
    let reader = client.clone();
    let (read, _) = join2(read_exact(&reader, 1), async {
        rt.sleep(Duration::from_millis(2)).await;
        server.write_all_vectored(&[b"x"]).await.unwrap();
    })
    .await;
    assert_eq!(read, b"x");
    drop((client, reader));
    assert_eq!(server.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

async fn a_full_socket_makes_the_writer_wait(_: World, rt: Rt, _: PathBuf) {
    let (server, client) = pair(&rt).await;
    let big: Vec<u8> = (0..20 << 20).map(|index: u32| (index % 251) as u8).collect();
    let slices: Vec<&[u8]> = big.chunks(300_001).collect();
    let (sent, got) = join2(server.write_all_vectored(&slices), async {
        rt.sleep(Duration::from_millis(20)).await;
        read_exact(&client, big.len()).await
    })
    .await;
    sent.unwrap();
    assert!(got == big);
}

async fn sockets_change_executors(world: World, rt: Rt, _: PathBuf) {
    let (server, client) = pair(&rt).await;
    let held = server.clone();
    assert!(held.hand_over().is_err());
    drop((server, client));
    let (server, client) = pair(&rt).await;
    let mut handover = server.hand_over().unwrap();
    handover.preface = b"early".to_vec();
    let joiner = world
        .executor("other", None, move |rt| async move {
            let preface = handover.preface.clone();
            let stream = rt.adopt(handover).unwrap();
            stream.write_all_vectored(&[&preface, b" bird"]).await.unwrap();
            assert_eq!(read_exact(&stream, 3).await, b"bye");
        })
        .unwrap();
    assert_eq!(read_exact(&client, 10).await, b"early bird");
    client.write_all_vectored(&[b"bye"]).await.unwrap();
    joiner.join().await;
}

async fn shutdown_ends_both_directions(_: World, rt: Rt, _: PathBuf) {
    let (server, client) = pair(&rt).await;
    let (read, ()) = join2(async { server.read(&mut [0; 8]).await }, async {
        rt.sleep(Duration::from_millis(2)).await;
        server.shutdown();
    })
    .await;
    assert_eq!(read.unwrap_or(0), 0);
    assert!(server.write_all_vectored(&[b"x"]).await.is_err());
    assert_eq!(client.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert!(rt.connect("127.0.0.1:1".parse().unwrap()).await.is_err());
}

async fn mesh_wakes_across_executors(world: World, rt: Rt, _: PathBuf) {
    let (to_other, mut inbox) = mesh::channel::<u64>();
    let (to_us, mut answers) = mesh::channel::<u64>();
    let joiner = world
        .executor("other", None, move |_| async move {
            while let Some(number) = inbox.recv().await {
                to_us.send(number * 2);
            }
        })
        .unwrap();
    for number in 0..1000 {
        to_other.send(number);
        if number % 100 == 0 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(answers.recv().await, Some(number * 2));
    }
    assert_eq!(answers.try_recv(), None);
    drop(to_other);
    assert_eq!(answers.recv().await, None);
    joiner.join().await;
}

async fn events_are_not_lost(_: World, rt: Rt, _: PathBuf) {
    let event = Event::new();
    event.notify();
    event.wait().await;
    let log = Rc::new(RefCell::new(Vec::new()));
    for index in 0..3 {
        let (event, log) = (event.clone(), log.clone());
        rt.spawn(async move {
            event.wait().await;
            log.borrow_mut().push(index);
        });
    }
    assert!(log.borrow().is_empty(), "a spawned task ran inside spawn");
    rt.yield_now().await;
    event.notify();
    rt.sleep(Duration::from_millis(1)).await;
    assert_eq!(*log.borrow(), [0, 1, 2]);
    // A waiter that is woken and dropped passes its notification on.
    let first = select2(event.wait(), async {
        rt.yield_now().await;
    })
    .await;
    assert_eq!(first, Either::Second(()));
    event.notify();
    event.wait().await;
    assert_eq!(timeout(&rt, Duration::from_millis(1), event.wait()).await, None);
    assert_eq!(timeout(&rt, Duration::from_secs(60), async { 5 }).await, Some(5));
}

async fn tasks_sleep_and_offload(_: World, rt: Rt, _: PathBuf) {
    let began = rt.now();
    let up = rt.uptime_ms();
    rt.sleep(Duration::from_millis(20)).await;
    assert!(rt.now() - began >= Duration::from_millis(20));
    assert!(rt.uptime_ms() >= up + 19 && rt.wall_ms() > 1_600_000_000_000);
    assert_eq!(rt.offload(|| 6 * 7).await, 42);
    assert_eq!(join2(rt.offload(|| 1), rt.offload(|| 2)).await, (1, 2));
    assert_ne!(rt.random(), rt.random());
    assert_eq!(rt.boot_id(), rt.boot_id());
    rt.step("test.step");
    assert!(!rt.mutated("test.mutation"));
    rt.log(Level::Debug, "a line");
}

async fn ports_are_checked(world: World, rt: Rt, _: PathBuf) {
    let listener = rt.listen(any_port()).await.unwrap();
    let address = listener.local();
    assert_eq!(world.check_port(address).err().unwrap().kind(), io::ErrorKind::AddrInUse);
    let second = rt.listen(address).await.unwrap();
    drop((listener, second));
    drop(world.check_port(address).unwrap());
}

#[test]
fn names_hide_no_path() {
    assert!(file::check_name("a").is_ok());
    for bad in ["", ".", "..", "a/b", "/a"] {
        assert!(file::check_name(bad).is_err());
    }
}

#[test]
fn a_failing_executor_reports_its_panic() {
    let joiner = World::real().executor("doomed", None, |_| async { panic!("on purpose") }).unwrap();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| joiner.join_blocking())).is_err());
}

#[test]
fn idle_buffers_are_freed_by_and_by() {
    real(|_, rt, _| async move {
        let RtKind::Real(executor) = &rt.0 else { panic!("the real world") };
        drop((0..8).map(|_| rt.buffer(1 << 20)).collect::<Vec<_>>());
        assert_eq!(executor.pool().idle_bytes(), 8 << 20);
        for _ in 0..500 {
            if executor.pool().idle_bytes() == 0 {
                return;
            }
            rt.sleep(Duration::from_millis(10)).await;
        }
        panic!("{} bytes are kept", executor.pool().idle_bytes());
    });
}

//! What the simulated world promises beyond the real one: loss, damage, and the same again.
//!
//! Floor 1.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::rt::{Access, Buf, Folder, Rt};

fn filled(rt: &Rt, byte: u8) -> Buf {
    let mut buffer = rt.buffer(4096);
    buffer.fill(byte);
    buffer.freeze()
}

async fn data(rt: &Rt) -> Folder {
    rt.create_folder(Path::new("/data")).await.unwrap()
}

/// Runs one program on a machine until it ends, or the machine crashes.
fn run_on<Fut>(simulation: &Simulation, machine: MachineId, main: impl FnOnce(Rt) -> Fut) -> Stop
where
    Fut: Future<Output = ()> + 'static,
{
    simulation.run_to_end(simulation.program(machine, main))
}

/// First bytes of the pages of /data/log.
async fn pages(rt: Rt, into: Rc<RefCell<Vec<u8>>>) {
    let file = data(&rt).await.open("log", Access::Read).await.unwrap();
    let read = file.read_at(0, 64 << 10).await.unwrap();
    into.borrow_mut().extend(read.chunks(4096).map(|page| page[0]));
}

#[test]
fn a_power_cut_loses_only_what_was_not_flushed() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let simulation = Simulation::new(seed, Faults::default(), false);
        let machine = simulation.machine(1 << 20);
        let stop = run_on(&simulation, machine, |rt| async move {
            let folder = data(&rt).await;
            let file = folder.create("log", 64 << 10).await.unwrap();
            file.flush().await.unwrap();
            folder.sync().await.unwrap();
            file.write_at(filled(&rt, 1), 0).await.unwrap();
            file.flush().await.unwrap();
            file.write_durable(filled(&rt, 2), 4096).await.unwrap();
            file.write_at(filled(&rt, 3), 0).await.unwrap();
            file.write_at(filled(&rt, 4), 8192).await.unwrap();
        });
        assert_eq!(stop, Stop::Done);
        simulation.crash(machine, CrashKind::Power);
        let content = simulation.contents(machine, Path::new("/data/log")).unwrap();
        assert_eq!(content.len(), 64 << 10);
        let page = |index: usize| &content[index * 4096..][..4096];
        assert!(page(1).iter().all(|&byte| byte == 2), "a durable write is durable");
        assert!(page(0).iter().all(|&byte| byte == 1 || byte == 3));
        assert!(page(2).iter().all(|&byte| byte == 0 || byte == 4));
        match page(2).iter().filter(|&&byte| byte == 4).count() {
            0 => lost += 1,
            4096 => kept += 1,
            part => {
                assert_eq!(part % 512, 0, "torn at sectors");
                torn += 1;
            }
        }
    }
    assert!(lost > 20 && kept > 20 && torn > 5, "{lost} {kept} {torn}");
}

#[test]
fn a_kill_keeps_what_completed_and_late_writes_hold_the_lock() {
    let mut late = 0;
    for seed in 0..50 {
        let simulation = Simulation::new(seed, Faults::default(), false);
        let machine = simulation.machine(1 << 20);
        let done = run_on(&simulation, machine, |rt| async move {
            let file = data(&rt).await.create("log", 64 << 10).await.unwrap();
            file.write_at(filled(&rt, 1), 0).await.unwrap();
        });
        assert_eq!(done, Stop::Done);
        simulation.plan(machine, CrashPlan { after_operations: Some(2), ..CrashPlan::default() });
        let stop = run_on(&simulation, machine, |rt| async move {
            let file = data(&rt).await.open("log", Access::Write).await.unwrap();
            assert!(file.lock().await.unwrap());
            file.write_at(filled(&rt, 9), 4096).await.unwrap();
            unreachable!("the crash comes with the write");
        });
        assert_eq!(stop, Stop::Crashed(machine, CrashKind::Kill));
        let tries = Rc::new(Cell::new(0));
        let (seen, counted) = (Rc::new(RefCell::new(Vec::new())), tries.clone());
        let into = seen.clone();
        run_on(&simulation, machine, |rt| async move {
            let file = data(&rt).await.open("log", Access::Write).await.unwrap();
            while !file.lock().await.unwrap() {
                counted.set(counted.get() + 1);
                rt.sleep(Duration::from_millis(1)).await;
            }
            pages(rt, into).await;
        });
        assert_eq!(seen.borrow()[..3], [1, 9, 0], "a locked file has no write in flight");
        late += usize::from(tries.get() > 0);
    }
    assert!(late > 0);
}

#[test]
fn names_last_after_a_sync_of_their_folder() {
    let (mut with, mut without) = (0, 0);
    for seed in 0..100 {
        let simulation = Simulation::new(seed, Faults::default(), false);
        let machine = simulation.machine(1 << 20);
        run_on(&simulation, machine, |rt| async move {
            let folder = data(&rt).await;
            folder.create("a", 4096).await.unwrap();
            folder.create("gone", 4096).await.unwrap();
            folder.sync().await.unwrap();
            folder.create("b", 4096).await.unwrap();
            folder.remove("gone").await.unwrap();
        });
        simulation.crash(machine, CrashKind::Power);
        let names: Vec<_> = simulation.files(machine).into_iter().map(|(path, _)| path).collect();
        assert!(names.contains(&"/data/a".into()));
        if names.contains(&"/data/b".into()) { with += 1 } else { without += 1 }
    }
    assert!(with > 10 && without > 10);
}

#[test]
fn a_failed_flush_lies_the_next_time_and_the_file_refuses() {
    let simulation = Simulation::new(3, Faults::default(), false);
    let machine = simulation.machine(1 << 20);
    let ready = Rc::new(Cell::new(false));
    let told = ready.clone();
    let process = simulation.program(machine, |rt| async move {
        let file = data(&rt).await.create("log", 64 << 10).await.unwrap();
        file.write_at(filled(&rt, 1), 0).await.unwrap();
        told.set(true);
        rt.sleep(Duration::from_millis(1)).await;
        assert!(file.flush().await.is_err());
        assert!(file.flush().await.is_err());
        assert!(file.write_at(filled(&rt, 1), 0).await.is_err());
    });
    simulation.run_until(&ready);
    simulation.set_faults(|faults| faults.flush_error_ppm = 1_000_000);
    assert_eq!(simulation.run_to_end(process), Stop::Done);
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let simulation = Simulation::new(4, Faults::default(), false);
    let machine = simulation.machine(128 << 10);
    let stop = run_on(&simulation, machine, |rt| async move {
        let folder = data(&rt).await;
        folder.create("a", 64 << 10).await.unwrap();
        let kept = folder.create("b", 32 << 10).await.unwrap();
        assert_eq!(folder.space().await.unwrap().available, 32 << 10);
        let refused = folder.create("c", 64 << 10).await.err().unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
        assert!(kept.allocate(128 << 10).await.is_err());
        folder.remove("a").await.unwrap();
        folder.create("c", 64 << 10).await.unwrap();
        folder.remove("b").await.unwrap();
        assert_eq!(folder.space().await.unwrap().available, 32 << 10, "an open file keeps its space");
        drop(kept);
        assert_eq!(folder.space().await.unwrap().available, 64 << 10);
    });
    assert_eq!(stop, Stop::Done);
}

#[test]
fn steps_crash_as_planned_and_are_counted() {
    let simulation = Simulation::new(5, Faults::default(), false);
    let machine = simulation.machine(1 << 20);
    let plan = CrashPlan { at_step: Some(("seal.begin".into(), 2)), ..CrashPlan::default() };
    simulation.plan(machine, plan);
    let stop = run_on(&simulation, machine, |rt| async move {
        let folder = data(&rt).await;
        for name in ["a", "b", "c"] {
            rt.step("seal.begin");
            folder.create(name, 4096).await.unwrap();
        }
    });
    assert_eq!(stop, Stop::Crashed(machine, CrashKind::Kill));
    assert_eq!(simulation.steps()["seal.begin"], StepCount { reached: 2, crashed: 1 });
    assert_eq!(simulation.files(machine).len(), 1);
}

#[test]
fn bits_flip_and_mutations_are_asked_for() {
    let simulation = Simulation::new(6, Faults::default(), false);
    let machine = simulation.machine(1 << 20);
    simulation.mutate("skip.crc");
    run_on(&simulation, machine, |rt| async move {
        assert!(rt.mutated("skip.crc") && !rt.mutated("other"));
        let file = data(&rt).await.create("log", 64 << 10).await.unwrap();
        file.write_durable(filled(&rt, 0), 8192).await.unwrap();
    });
    let flip = simulation.flip_bit(machine, |path| path.ends_with("log")).unwrap();
    let content = simulation.contents(machine, &flip.path).unwrap();
    assert_eq!(content[flip.byte as usize], 1 << flip.bit);
    assert_eq!(content.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    assert!(simulation.flip_bit(machine, |_| false).is_none());
}

/// Two machines that talk over a bad network, with a bad disk, and crash: its trace.
fn eventful(seed: u64) -> (u64, u64) {
    let faults = Faults {
        disk_stall_ppm: 20_000,
        net_delay_ppm: 20_000,
        net_cut_ppm: 20_000,
        net_refuse_ppm: 50_000,
        ..Faults::default()
    };
    let simulation = Simulation::new(seed, faults, false);
    let server = simulation.machine(1 << 24);
    let client = simulation.machine(0);
    let address = "10.0.0.1:7100".parse().unwrap();
    let echoed = Rc::new(Cell::new(0u64));
    let (client_process, _) = simulation.process(client);
    let counted = echoed.clone();
    simulation.start(client_process, "client", |rt| async move {
        while counted.get() < 200 {
            let Ok(stream) = rt.connect(address).await else {
                rt.sleep(Duration::from_millis(1)).await;
                continue;
            };
            let mut buffer = [0; 64];
            while stream.write_all_vectored(&[b"ping"]).await.is_ok()
                && stream.read(&mut buffer).await.unwrap_or(0) > 0
            {
                counted.set(counted.get() + 1);
            }
        }
    });
    for _ in 0..40 {
        let (process, world) = simulation.process(server);
        simulation.start(process, "server", |rt| async move {
            let folder = data(&rt).await;
            let listener = rt.listen(address).await.unwrap();
            let joiner = world.executor("second", None, |rt| async move { rt.sleep(Duration::MAX).await });
            assert!(joiner.is_ok());
            loop {
                let Ok(stream) = listener.accept().await else { continue };
                let (rt2, folder) = (rt.clone(), folder.clone());
                rt.spawn(async move {
                    let mut buffer = [0; 64];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        let name = format!("{:x}", rt2.random());
                        let file = folder.create(&name, 4096).await.unwrap();
                        file.write_durable(filled(&rt2, 1), 0).await.unwrap();
                        folder.remove(&name).await.unwrap();
                        rt2.step("echo.written");
                        if stream.write_all_vectored(&[&buffer[..count]]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let kind = if simulation.random().is_multiple_of(2) { CrashKind::Kill } else { CrashKind::Power };
        simulation.plan(server, CrashPlan { kind, step_ppm: 30_000, ..CrashPlan::default() });
        let until = simulation.after(Duration::from_secs(1));
        let stop = simulation.run(until, || !simulation.is_alive(client_process));
        match stop {
            Stop::Done => break,
            Stop::Crashed(..) => (),
            _ => simulation.crash(server, kind),
        }
    }
    (simulation.trace_hash(), echoed.get())
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces: Vec<_> = (0..20).map(eventful).collect();
    assert_eq!(traces, (0..20).map(eventful).collect::<Vec<_>>());
    let hashes: std::collections::BTreeSet<_> = traces.iter().map(|(hash, _)| hash).collect();
    assert_eq!(hashes.len(), 20);
    assert!(traces.iter().filter(|(_, echoed)| *echoed >= 200).count() > 10);
}

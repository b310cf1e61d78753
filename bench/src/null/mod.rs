//! The roofline: a server of the native protocol that does nothing but what no broker can avoid.
//!
//! Owner: ringbench; one executor for each shard, as in the broker. It receives batches, copies each
//! once into an aligned buffer, writes and flushes that as durably as the broker, and answers. It
//! does not validate, index or deduplicate, and keeps nothing to read unless it is given memory for that;
//! then it sends the batches from there, as they came.

mod answers;
mod connection;
mod sink;
mod store;

use std::io;
use std::rc::Rc;

use ringlog::rt::{Handover, Rt, World, mesh};

use crate::cli::ServeNull;
use sink::Sink;
use store::Store;

/// One shard of the server, as its connections see it.
pub struct Shard {
    pub rt: Rt,
    pub index: u32,
    pub count: u32,
    /// Of every topic; partition p lives on shard p modulo the count.
    pub partitions: u32,
    pub sink: Rc<Sink>,
    pub store: Rc<Store>,
    pub peers: Vec<mesh::Sender<Handover>>,
}

/// Serves until the process is killed.
pub fn serve(options: &ServeNull) -> io::Result<()> {
    let world = World::real();
    let cpus = world.cpus();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..options.shards).map(|_| mesh::channel()).unzip();
    let mut joiners = Vec::new();
    for (index, inbox) in receivers.into_iter().enumerate() {
        let (options, peers) = (options.clone(), senders.clone());
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let name = format!("null-{index}");
        let main = move |rt: Rt| async move {
            if let Err(error) = run(rt, index as u32, options, peers, inbox).await {
                eprintln!("ringbench: null shard {index}: {error}");
                std::process::exit(1);
            }
        };
        joiners.push(world.executor(&name, cpu, main)?);
    }
    joiners.into_iter().for_each(|joiner| joiner.join_blocking());
    Ok(())
}

async fn run(
    rt: Rt,
    index: u32,
    options: ServeNull,
    peers: Vec<mesh::Sender<Handover>>,
    mut inbox: mesh::Receiver<Handover>,
) -> io::Result<()> {
    let folder = rt.create_folder(&options.data.join(index.to_string())).await?;
    let sink = Sink::create(&rt, folder, options.keep / u64::from(options.shards)).await?;
    let shard = Rc::new(Shard {
        rt: rt.clone(),
        index,
        count: options.shards,
        partitions: options.partitions,
        sink,
        store: Rc::new(Store::new(options.store as usize)),
        peers,
    });
    let listener = rt.listen(options.listen).await?;
    let accepting = shard.clone();
    rt.spawn(async move {
        while let Ok(stream) = listener.accept().await {
            accepting.rt.spawn(connection::serve(accepting.clone(), stream, Vec::new()));
        }
    });
    while let Some(mut handover) = inbox.recv().await {
        let received = std::mem::take(&mut handover.preface);
        let stream = rt.adopt(handover)?;
        rt.spawn(connection::serve(shard.clone(), stream, received));
    }
    Ok(())
}

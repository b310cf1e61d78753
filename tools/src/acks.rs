//! Which lines were acknowledged: the book that `produce` keeps of its deliveries.
//!
//! Owner: ringctl. Deliveries of one partition end in the order of their sends, so only the oldest
//! of each partition is ever looked at. With `--print-acks` a line goes out as soon as its record is
//! acknowledged: whatever is ready leaves in one write.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io::{ErrorKind, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use ringlog::client::{Delivery, ProduceError};

use crate::output::Output;

/// Failures said one by one; the rest is counted.
const SAID_MAX: u64 = 10;

pub struct AckBook {
    /// By partition: line and delivery, oldest first.
    waiting: BTreeMap<u32, VecDeque<(u64, Delivery)>>,
    count: usize,
    failures: u64,
    /// `None`: acknowledgements are not printed, or nobody reads them any more.
    output: Option<Output>,
    unprinted: Option<std::io::Error>,
}

impl AckBook {
    pub fn new(print: bool) -> AckBook {
        let output = print.then(Output::new);
        AckBook { waiting: BTreeMap::new(), count: 0, failures: 0, output, unprinted: None }
    }

    pub fn sent(&mut self, line: u64, delivery: Delivery) {
        self.waiting.entry(delivery.partition()).or_default().push_back((line, delivery));
        self.count += 1;
    }

    /// Records whose fate is not known.
    pub fn waiting(&self) -> usize {
        self.count
    }

    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Why acknowledgements could not be printed, besides that nobody read them.
    pub fn unprinted(&self) -> Option<&std::io::Error> {
        self.unprinted.as_ref()
    }

    pub fn failed(&mut self, line: u64, reason: &str) {
        self.failures += 1;
        if self.failures <= SAID_MAX {
            eprintln!("ringctl: line {line} was not delivered: {reason}");
        } else if self.failures == SAID_MAX + 1 {
            eprintln!("ringctl: more lines were not delivered; they are counted at the end");
        }
    }

    /// Takes what is known by now.
    pub fn collect(&mut self) {
        self.take(|delivery| delivery.outcome().is_some());
    }

    /// Waits until something becomes known, and takes it. For ever if nothing is on its way.
    pub async fn changed(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    /// Waits until everything is known.
    pub async fn settle(&mut self) {
        while self.count > 0 {
            self.changed().await;
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let before = self.count;
        self.take(|delivery| Pin::new(delivery).poll(context).is_ready());
        if self.count < before { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes deliveries off the front of each partition as long as they are known.
    fn take(&mut self, mut is_known: impl FnMut(&mut Delivery) -> bool) {
        let mut failed: Vec<(u64, ProduceError)> = Vec::new();
        for (partition, queue) in &mut self.waiting {
            while let Some((line, delivery)) = queue.front_mut() {
                if !is_known(delivery) {
                    break;
                }
                match delivery.outcome() {
                    Some(Ok(record)) => {
                        if let Some(output) = &mut self.output {
                            let line = writeln!(output.buffer, "{line} {partition} {}", record.offset);
                            line.expect("writing to a Vec does not fail");
                        }
                    }
                    Some(Err(error)) => failed.push((*line, error)),
                    None => break,
                }
                queue.pop_front();
                self.count -= 1;
            }
        }
        for (line, error) in failed {
            self.failed(line, &error.to_string());
        }
        // A reader that went away, or a full disk, stops the printing, not the delivery.
        if let Some(output) = &mut self.output
            && let Err(error) = output.flush()
        {
            self.output = None;
            self.unprinted = (error.kind() != ErrorKind::BrokenPipe).then_some(error);
        }
    }
}

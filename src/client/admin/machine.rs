//! The admin machine: carries each question to the shard that can answer it.
//!
//! Floor 5; owned by one driver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Admin, Front, Inbox, Question};
use crate::base::lock;
use crate::client::error::ClientError;
use crate::client::session::{
    Action, Event, Machine, Millis, News, Session, Settings, Target, is_stale_route, topic_id,
};
use crate::client::sync::Bell;
use crate::model::{ErrorCode, Failure};
use crate::wire::{Reply, Request, TopicRef};

#[derive(Clone, Copy, Debug)]
enum Tag {
    Open(u64),
    Asked(u64),
    /// Of a handle that is no longer needed.
    Close,
}

struct Job {
    question: Question,
    deadline: Millis,
    not_before: Millis,
    attempts: u32,
    /// An open or the question itself is under way.
    busy: bool,
    /// The topic's route was looked up for this job.
    routed: bool,
    /// The connection broke after the question was sent: it may have been carried out.
    maybe_done: bool,
}

pub struct AdminMachine {
    front: Arc<Front>,
    session: Session<Tag>,
    jobs: BTreeMap<u64, Job>,
    job_next: u64,
    dirty: BTreeSet<u64>,
    finished: bool,
}

impl Admin {
    /// A handle for callers and a machine for a driver. `broker` is for messages; questions
    /// without an answer fail after `timeout_ms`.
    pub fn start(broker: String, timeout_ms: Millis, session: Settings, seed: u64) -> (Admin, AdminMachine) {
        let front = Arc::new(Front {
            broker,
            inbox: Default::default(),
            bell: Arc::new(Bell::default()),
            handles: 1.into(),
            timeout_ms,
        });
        let machine = AdminMachine {
            front: front.clone(),
            session: Session::new(session, seed),
            jobs: BTreeMap::new(),
            job_next: 0,
            dirty: BTreeSet::new(),
            finished: false,
        };
        (Admin(front), machine)
    }
}

impl Machine for AdminMachine {
    fn handle_event(&mut self, now: Millis, event: Event) {
        self.session.handle_event(now, event);
        self.run(now);
    }

    fn handle_timeout(&mut self, now: Millis) {
        self.session.handle_timeout(now);
        let due = |job: &Job| !job.busy && job.not_before <= now || job.deadline <= now;
        self.dirty.extend(self.jobs.iter().filter(|(_, job)| due(job)).map(|(id, _)| id));
        self.run(now);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.session.next_action()
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let deadlines = self.jobs.values().map(|job| job.deadline);
        // Jobs that wait for an event have a time in the past.
        let pauses = self.jobs.values().filter(|job| job.not_before > 0).map(|job| job.not_before);
        deadlines.chain(pauses).chain(self.session.poll_timeout()).min()
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}

impl Drop for AdminMachine {
    fn drop(&mut self) {
        self.finish();
    }
}

impl AdminMachine {
    /// Rings when the machine's `handle_timeout` should be called.
    pub fn bell(&self) -> Arc<Bell> {
        self.front.bell.clone()
    }

    fn run(&mut self, now: Millis) {
        if self.finished {
            return;
        }
        for question in std::mem::take(&mut lock(&self.front.inbox).questions) {
            let id = self.job_next;
            self.job_next += 1;
            let deadline = now + question.timeout_ms;
            let job = Job {
                question,
                deadline,
                not_before: 0,
                attempts: 0,
                busy: false,
                routed: false,
                maybe_done: false,
            };
            if let Some((topic, _)) = &job.question.partition {
                self.session.look_up(now, topic);
            }
            self.jobs.insert(id, job);
            self.dirty.insert(id);
        }
        loop {
            while let Some(news) = self.session.next_news() {
                self.hear(now, news);
            }
            let Some(id) = self.dirty.pop_first() else { break };
            self.advance(now, id);
        }
        if self.jobs.is_empty() && self.front.handles.load(Ordering::Acquire) == 0 {
            self.finish();
        }
    }

    fn hear(&mut self, now: Millis, news: News<Tag>) {
        match news {
            News::Up { .. } => self.dirty.extend(self.jobs.keys()),
            News::Written { .. } => {}
            News::Routed { topics } => {
                for (id, job) in &mut self.jobs {
                    if job.question.partition.as_ref().is_some_and(|(topic, _)| topics.contains(topic)) {
                        job.routed = true;
                        self.dirty.insert(*id);
                    }
                }
            }
            News::Down { lost, .. } => {
                for tag in lost {
                    let (Tag::Open(id) | Tag::Asked(id)) = tag else { continue };
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.busy = false;
                        job.maybe_done |= matches!(tag, Tag::Asked(_));
                    }
                }
                self.dirty.extend(self.jobs.keys());
            }
            News::Reply { target, tag, result } => self.reply(now, target, tag, result),
        }
    }

    fn reply(&mut self, now: Millis, target: Target, tag: Tag, result: Result<Reply, Failure>) {
        let (Tag::Open(id) | Tag::Asked(id)) = tag else { return };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.busy = false;
        match (tag, result) {
            (Tag::Open(_), Ok(Reply::Open(opened))) => {
                let handle = opened.handle;
                job.busy = true;
                self.session.request(now, target, handle, &job.question.request, Tag::Asked(id));
                // Answers of one handle come in order, so it may be closed behind the question.
                self.session.request(now, target, handle, &Request::Close, Tag::Close);
            }
            (_, Ok(reply)) => self.answer(id, Ok(reply)),
            (_, Err(failure)) => self.refused(now, id, failure),
        }
    }

    fn refused(&mut self, now: Millis, id: u64, failure: Failure) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        // That a topic is unknown is final unless a route was out of date.
        let is_partition = job.question.partition.is_some();
        let is_final = failure.code == ErrorCode::UnknownTopicOrPartition && !is_partition;
        if !failure.code.retriable() || is_final {
            return self.answer(id, Err(failure.into()));
        }
        let pause = self.session.backoff(job.attempts).max(failure.retry_after_ms.into());
        job.attempts += 1;
        job.not_before = now + pause;
        if let (true, Some((topic, _))) = (is_stale_route(failure.code), &job.question.partition) {
            job.routed = false;
            self.session.look_up(now, topic);
        }
    }

    fn advance(&mut self, now: Millis, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.deadline <= now {
            let text = self.session.trouble().to_owned();
            let error = ClientError::Unreachable { broker: self.front.broker.clone(), text };
            return self.answer(id, Err(error));
        }
        if job.busy || job.not_before > now {
            return;
        }
        job.not_before = 0;
        let Some((topic, partition)) = &job.question.partition else {
            if self.session.ensure(now, Target::Any) {
                job.busy = true;
                self.session.request(now, Target::Any, 0, &job.question.request, Tag::Asked(id));
            }
            return;
        };
        let route = if job.routed { self.session.route(topic) } else { None };
        let shards = match route {
            None => return,
            Some(Err(failure)) => {
                let failure = failure.clone();
                return self.answer(id, Err(failure.into()));
            }
            Some(Ok(route)) => &route.shards,
        };
        let Some(&shard) = shards.get(*partition as usize) else {
            let text = format!("topic {topic} has {} partitions, there is no {partition}", shards.len());
            let failure = Failure::new(ErrorCode::UnknownTopicOrPartition, text);
            return self.answer(id, Err(failure.into()));
        };
        let Some(topic) = topic_id(route) else { return };
        if self.session.ensure(now, Target::Shard(shard)) {
            let open = Request::Open { topic: TopicRef::Id(topic), partition: *partition };
            job.busy = true;
            self.session.request(now, Target::Shard(shard), 0, &open, Tag::Open(id));
        }
    }

    fn answer(&mut self, id: u64, result: Result<Reply, ClientError>) {
        if let Some(job) = self.jobs.remove(&id) {
            job.question.answer.fulfil((result, job.maybe_done));
        }
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let left =
            std::mem::replace(&mut *lock(&self.front.inbox), Inbox { closed: true, questions: vec![] });
        let jobs = std::mem::take(&mut self.jobs).into_values().map(|job| job.question);
        for question in left.questions.into_iter().chain(jobs) {
            question.answer.fulfil((Err(ClientError::Closed), false));
        }
        self.session.close();
    }
}

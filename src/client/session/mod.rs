//! The part that producer, consumer and admin machines share: links to the shards of a broker,
//! requests and their replies, and where topics live.
//!
//! Floor 5; owned by one machine. `T` is the machine's own tag, which comes back with the reply.
//! Invariant: each tag that goes in with a request comes back exactly once, in a
//! [`News::Reply`], [`News::Written`] or [`News::Down`].

mod link;
mod routes;
mod seam;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::model::{ErrorCode, Failure, TopicId};
use crate::wire::{self, Header, Hello, MetadataQuery, Op, Reply, Request, TopicRef};

use link::{Link, State};
pub use routes::{Route, Routes};
pub use seam::{Action, Event, LinkId, Machine, Millis, Settings, Target, millis};

/// What a session tells its machine.
#[derive(Debug)]
pub enum News<T> {
    Up {
        target: Target,
    },
    Reply {
        target: Target,
        tag: T,
        result: Result<Reply, Failure>,
    },
    /// A request that gets no reply has been written.
    Written {
        tag: T,
    },
    /// The link failed; the fate of these requests is unknown, oldest first.
    Down {
        target: Target,
        lost: Vec<T>,
    },
    /// Routes of these topics were looked up anew.
    Routed {
        topics: Vec<String>,
    },
}

enum Tag<T> {
    Metadata(Vec<String>),
    User(T),
}

/// A batch for an open handle.
pub struct Batch {
    pub handle: u32,
    pub acks: wire::Acks,
    pub bytes: Bytes,
    /// Whether [`Session::counted`] has it until the answer comes.
    pub is_counted: bool,
}

/// Bytes handed to the shell and not yet written, per link, before a producer holds back.
const UNWRITTEN_BYTES_MAX: u64 = 8 << 20;

pub struct Session<T> {
    settings: Settings,
    random: Random,
    links: BTreeMap<Target, Link<Tag<T>>>,
    link_next: LinkId,
    server: usize,
    routes: Routes,
    /// Whether a metadata request is under way.
    routing: bool,
    actions: VecDeque<Action>,
    news: VecDeque<News<T>>,
    trouble: String,
}

impl<T> Session<T> {
    pub fn new(settings: Settings, seed: u64) -> Session<T> {
        Session {
            routes: Routes::new(settings.metadata_age_ms_max),
            settings,
            random: Random(seed | 1),
            links: BTreeMap::new(),
            link_next: 0,
            server: 0,
            routing: false,
            actions: VecDeque::new(),
            news: VecDeque::new(),
            trouble: "not tried yet".into(),
        }
    }

    /// Why there was no progress last, in words.
    pub fn trouble(&self) -> &str {
        &self.trouble
    }

    pub fn random(&mut self) -> u64 {
        self.random.next()
    }

    /// A pause before attempt number `attempts + 1`: doubling, with up to a quarter of jitter.
    pub fn backoff(&mut self, attempts: u32) -> Millis {
        let base = self.settings.backoff_ms_min << attempts.min(16);
        let base = base.min(self.settings.backoff_ms_max).max(1);
        base - self.random.next() % (base / 4 + 1)
    }

    /// Makes sure that a link is up or on its way. True if it is up.
    pub fn ensure(&mut self, now: Millis, target: Target) -> bool {
        let Some(link) = self.links.get_mut(&target) else {
            self.connect(now, target, 0);
            return false;
        };
        link.wanted = true;
        match link.state {
            State::Up => return true,
            State::Waiting { until } if until <= now => {
                let attempts = link.attempts;
                self.connect(now, target, attempts);
            }
            _ => {}
        }
        false
    }

    pub fn is_up(&self, target: Target) -> bool {
        self.links.get(&target).is_some_and(|link| link.is_up())
    }

    /// Whether a link that is up takes another large request without undue queueing. If not, it may
    /// after any event.
    pub fn has_room(&self, target: Target) -> bool {
        let has_room = |link: &Link<_>| link.is_up() && link.has_room(UNWRITTEN_BYTES_MAX);
        self.links.get(&target).is_some_and(has_room)
    }

    /// Counted batches on this link that were not answered yet.
    pub fn counted(&self, target: Target) -> usize {
        self.links.get(&target).map_or(0, |link| link.counted)
    }

    /// Sends on a link that is up. The tag comes back with the reply.
    pub fn request(&mut self, now: Millis, target: Target, handle: u32, request: &Request, tag: T) {
        self.send(now, target, handle, request, Tag::User(tag));
    }

    fn send(&mut self, now: Millis, target: Target, handle: u32, request: &Request, tag: Tag<T>) {
        let link = self.links.get_mut(&target).expect("the machine checked that the link is up");
        assert!(link.is_up(), "the machine checked that the link is up");
        let corr = link.expect_reply(now, false, tag);
        let mut head = Vec::with_capacity(64);
        request.encode(corr, handle, &mut head);
        link.queued += head.len() as u64;
        self.actions.push_back(Action::Send { link: link.id, head, body: Bytes::new() });
    }

    /// Sends one batch. Without acks the tag comes back once the bytes have left.
    pub fn produce(&mut self, now: Millis, target: Target, batch: Batch, tag: T) {
        let Batch { handle, acks, bytes: batch, is_counted } = batch;
        let link = self.links.get_mut(&target).expect("the machine checked that the link is up");
        assert!(link.is_up(), "the machine checked that the link is up");
        let bytes = (wire::PRODUCE_PREFIX_BYTES + batch.len()) as u64;
        link.queued += bytes;
        let corr = match acks {
            wire::Acks::None => link.expect_write(Tag::User(tag)),
            _ => link.expect_reply(now, is_counted, Tag::User(tag)),
        };
        let head = wire::encode_produce_prefix(corr, handle, acks, batch.len()).to_vec();
        self.actions.push_back(Action::Send { link: link.id, head, body: batch });
    }

    pub fn route(&self, topic: &str) -> Option<&Result<Route, Failure>> {
        self.routes.get(topic)
    }

    /// Looks the topic up, again if it is known; [`News::Routed`] follows.
    pub fn look_up(&mut self, now: Millis, topic: &str) {
        self.routes.want(topic);
        self.pump(now);
    }

    pub fn forget_topic(&mut self, topic: &str) {
        self.routes.forget(topic);
    }

    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn next_news(&mut self) -> Option<News<T>> {
        self.news.pop_front()
    }

    /// Closes every link; for the end of a machine.
    pub fn close(&mut self) {
        for link in self.links.values().filter(|link| link.is_open()) {
            self.actions.push_back(Action::Close { link: link.id });
        }
        self.links.clear();
    }

    pub fn handle_event(&mut self, now: Millis, event: Event) {
        let id = match &event {
            Event::Connected { link }
            | Event::Frame { link, .. }
            | Event::Written { link, .. }
            | Event::Closed { link, .. } => *link,
        };
        let Some((&target, link)) = self.links.iter_mut().find(|(_, link)| link.id == id) else { return };
        if !link.is_open() {
            return;
        }
        link.heard_ms = now;
        match event {
            Event::Connected { .. } => self.greet(now, target),
            Event::Frame { header, body, .. } => self.receive(now, target, &header, &body),
            Event::Written { bytes, .. } => {
                for tag in link.wrote(bytes as u64) {
                    if let Tag::User(tag) = tag {
                        self.news.push_back(News::Written { tag });
                    }
                }
            }
            Event::Closed { reason, .. } => self.down(now, target, reason),
        }
        self.pump(now);
    }

    pub fn handle_timeout(&mut self, now: Millis) {
        let due: Vec<_> =
            self.links.iter().filter(|(_, link)| self.is_due(now, link)).map(|(t, _)| *t).collect();
        for target in due {
            let link = &self.links[&target];
            if link.is_open() {
                self.actions.push_back(Action::Close { link: link.id });
                let what = if link.is_up() { "no answer" } else { "no connection" };
                self.down(now, target, format!("{what} in time"));
            } else {
                let attempts = link.attempts;
                self.connect(now, target, attempts);
            }
        }
        self.routes.age(now);
        self.pump(now);
    }

    fn is_due(&self, now: Millis, link: &Link<Tag<T>>) -> bool {
        link.deadline(&self.settings).is_some_and(|deadline| deadline <= now)
    }

    pub fn poll_timeout(&self) -> Option<Millis> {
        let links = self.links.values().filter_map(|link| link.deadline(&self.settings));
        // While the link for metadata is on its way, its own deadline counts; one that failed and that
        // nobody asked for since has none.
        let is_coming = |link: &Link<Tag<T>>| link.wanted && !link.is_up();
        let can_ask = !self.routing && !self.links.get(&Target::Any).is_some_and(is_coming);
        let routes = if can_ask { self.routes.deadline() } else { None };
        links.chain(routes).min()
    }

    fn connect(&mut self, now: Millis, target: Target, attempts: u32) {
        let id = self.link_next;
        self.link_next += 1;
        self.links.insert(target, Link::new(id, now, attempts));
        let server = self.server % self.settings.servers.max(1);
        self.actions.push_back(Action::Connect { link: id, server });
    }

    fn greet(&mut self, now: Millis, target: Target) {
        let shard = match target {
            Target::Any => wire::ANY_SHARD,
            Target::Shard(shard) => shard,
        };
        let hello = Hello {
            version_min: wire::VERSION_MIN,
            version_max: wire::VERSION_MAX,
            shard,
            features: 0,
            frame_bytes_max: self.settings.frame_bytes_max,
            client_id: self.settings.client_id.clone(),
        };
        let mut head = wire::PREFACE.to_vec();
        Request::Hello(hello).encode(0, 0, &mut head);
        let link = self.links.get_mut(&target).expect("it was just connected");
        link.state = State::Greeting { since: now };
        link.queued += head.len() as u64;
        self.actions.push_back(Action::Send { link: link.id, head, body: Bytes::new() });
    }

    fn receive(&mut self, now: Millis, target: Target, header: &Header, body: &Bytes) {
        let op = match Op::from_number(header.op) {
            Some(op) if header.is_reply() => op,
            None if header.is_optional() => return,
            _ => return self.hang_up(now, target, "the broker sent an unknown frame".into()),
        };
        let reply = match Reply::decode(op, body) {
            Ok(reply) => reply,
            Err(error) => return self.hang_up(now, target, format!("the broker sent a {error}")),
        };
        let link = self.links.get_mut(&target).expect("the event named a link that exists");
        if matches!(link.state, State::Greeting { .. }) {
            return self.greeted(now, target, reply);
        }
        let Some(tag) = link.replied(header.corr) else {
            // The refusal of a batch without acks may come long after its tag; anything else
            // without a request is nonsense.
            if let Reply::Error(failure) = reply {
                self.trouble = failure.to_string();
                self.routes.want_all();
                return;
            }
            return self.hang_up(now, target, "the broker answered what was not asked".into());
        };
        let result = match reply {
            Reply::Error(failure) => Err(failure),
            reply => Ok(reply),
        };
        if let Err(failure) = &result {
            self.trouble = failure.to_string();
        }
        match tag {
            Tag::Metadata(topics) => self.routed(now, topics, result),
            Tag::User(tag) => self.news.push_back(News::Reply { target, tag, result }),
        }
    }

    fn greeted(&mut self, now: Millis, target: Target, reply: Reply) {
        let hello = match reply {
            Reply::Hello(hello) => hello,
            Reply::Error(failure) => return self.hang_up(now, target, failure.to_string()),
            _ => return self.hang_up(now, target, "the broker did not answer the hello".into()),
        };
        if !matches!(target, Target::Shard(shard) if shard != hello.shard) {
            let link = self.links.get_mut(&target).expect("the caller looked it up");
            link.up(&hello);
            if self.routes.broker_epoch(hello.broker_epoch) {
                // It was restarted, perhaps with another number of shards.
                self.routes.want_all();
            }
            self.news.push_back(News::Up { target });
            return;
        }
        self.routes.want_all();
        let reason = format!("the broker has {} shards now", hello.shards);
        self.hang_up(now, target, reason);
    }

    fn hang_up(&mut self, now: Millis, target: Target, reason: String) {
        let link = &self.links[&target];
        self.actions.push_back(Action::Close { link: link.id });
        self.down(now, target, reason);
    }

    fn down(&mut self, now: Millis, target: Target, reason: String) {
        self.trouble = reason;
        self.server = self.server.wrapping_add(1);
        let link = self.links.get_mut(&target).expect("the caller looked it up");
        let (was_up, attempts, lost) = (link.is_up(), link.attempts, link.fail());
        let attempts = if was_up { 0 } else { attempts };
        let until = now + self.backoff(attempts);
        let link = self.links.get_mut(&target).expect("the caller looked it up");
        link.state = State::Waiting { until };
        link.attempts = attempts + 1;
        let mut users = Vec::new();
        for tag in lost {
            match tag {
                Tag::Metadata(topics) => {
                    self.routing = false;
                    topics.iter().for_each(|topic| self.routes.want(topic));
                }
                Tag::User(tag) => users.push(tag),
            }
        }
        self.news.push_back(News::Down { target, lost: users });
    }

    /// Sends what metadata is wanted, if it can be sent now.
    fn pump(&mut self, now: Millis) {
        if self.routing || !self.routes.is_due(now) || !self.ensure(now, Target::Any) {
            return;
        }
        let (topics, too_long) = self.routes.take_wanted().into_iter().partition::<Vec<_>, _>(|topic| {
            // What the wire has room for; topic names are shorter by far.
            topic.len() <= usize::from(u16::MAX)
        });
        if !too_long.is_empty() {
            let failure = Failure::new(ErrorCode::InvalidTopic, "a topic name has at most 249 characters");
            self.routes.refuse(now, &too_long, &failure);
            self.news.push_back(News::Routed { topics: too_long });
        }
        if topics.is_empty() {
            return;
        }
        let refs = topics.iter().map(|topic| TopicRef::Name(topic.clone())).collect();
        let query = Request::Metadata(MetadataQuery { topics: Some(refs), configs: true });
        self.routing = true;
        self.send(now, Target::Any, 0, &query, Tag::Metadata(topics));
    }

    fn routed(&mut self, now: Millis, topics: Vec<String>, result: Result<Reply, Failure>) {
        self.routing = false;
        let pause = self.backoff(0);
        match result {
            Ok(Reply::Metadata(metadata)) if metadata.topics.len() == topics.len() => {
                self.routes.update(now, now + pause, &topics, metadata);
                self.news.push_back(News::Routed { topics });
            }
            Err(failure) if !failure.code.retriable() => {
                self.routes.refuse(now, &topics, &failure);
                self.news.push_back(News::Routed { topics });
            }
            other => {
                if let Ok(reply) = other {
                    self.trouble = format!("metadata was answered with {:?}", reply.op());
                }
                topics.iter().for_each(|topic| self.routes.want(topic));
                self.routes.pause(now + pause);
            }
        }
    }
}

/// Whether a refusal means that the client's picture of topics and shards is out of date.
pub fn is_stale_route(code: ErrorCode) -> bool {
    use ErrorCode::*;
    matches!(code, NotLeaderOrFollower | UnknownTopicId | UnknownTopicOrPartition | FencedLeaderEpoch)
}

/// The topic id of a route, if the topic exists.
pub fn topic_id(route: Option<&Result<Route, Failure>>) -> Option<TopicId> {
    route.and_then(|route| route.as_ref().ok()).map(|route| route.id)
}

/// xorshift64*: enough for jitter and for spreading load, and the same on every run of a seed.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

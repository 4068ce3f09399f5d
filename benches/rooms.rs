//! What events and states cost, beside what the machine can do at all: `cargo bench --bench rooms`.
//!
//! `ROOM_SIZES=10,1000` sets the sizes of the rooms; the largest of the default takes a minute to build.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use chappe::{
    Server,
    clock::Clock,
    config::Config,
    event::{Draft, StateRoot},
    random::Random,
    room::{
        View, append,
        create::{self, NewRoom, Preset},
    },
    store::{self, RoomNid, StateKeyNid, Store},
    user::tables::{AccountData, AccountDatum},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    events::StateEventType,
    room_version_rules::RoomVersionRules,
    signatures::{Ed25519KeyPair, hash_and_sign_event},
};
use serde_json::{Map, json, value::to_raw_value};
use tokio::runtime::Runtime;

fn user(n: usize) -> OwnedUserId {
    UserId::parse(format!("@user{n}:bench")).expect("it is a user id")
}

fn sizes() -> Vec<usize> {
    let sizes = std::env::var("ROOM_SIZES").unwrap_or_else(|_| "10,1000,100000".to_owned());
    sizes.split(',').map(|size| size.trim().parse().expect("ROOM_SIZES holds numbers")).collect()
}

/// A server with one public room, which grows.
struct Bench {
    runtime: Runtime,
    server: Arc<Server>,
    room: RoomNid,
    room_id: OwnedRoomId,
    members: usize,
    _directory: tempfile::TempDir,
}

fn draft(event_type: &str, state_key: Option<&str>, content: &serde_json::Value) -> Draft {
    let content = to_raw_value(content).expect("a value is JSON");
    match state_key {
        Some(key) => Draft::state(event_type.into(), key, content),
        None => Draft::message(event_type.into(), content),
    }
}

fn message() -> Draft {
    draft("m.room.message", None, &json!({ "msgtype": "m.text", "body": "A message of some forty characters, say." }))
}

fn join(user: &UserId) -> Draft {
    draft("m.room.member", Some(user.as_str()), &json!({ "membership": "join", "displayname": user.localpart() }))
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::for_tests("bench");
        directory.path().clone_into(&mut config.database_path);
        let runtime = Runtime::new().expect("threads can be started");
        let server = Server::open(config, Clock::System, Random::from_seed(1)).expect("a new database opens");
        let (room, room_id) = runtime.block_on(Self::found(&server));
        Self { runtime, server, room, room_id, members: 1, _directory: directory }
    }

    async fn found(server: &Arc<Server>) -> (RoomNid, OwnedRoomId) {
        let new = NewRoom {
            version: RoomVersionId::V11,
            preset: Preset::PublicChat,
            is_listed: false,
            alias: None,
            name: None,
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            initial_state: Vec::new(),
            creation_content: Map::new(),
            power_levels: Map::new(),
            replaces: None,
        };
        let room_id = create::create(server, &user(0), new).await.expect("a room");
        let snapshot = server.store.snapshot();
        let view = View::open(&server.rooms, &snapshot, &room_id).expect("it reads").expect("it is there");
        (view.nid, room_id)
    }

    fn send(&self, sender: &UserId, draft: Draft) {
        self.runtime.block_on(append::send(&self.server, self.room, sender, draft, None)).expect("it is allowed");
    }

    fn grow(&mut self, members: usize) {
        while self.members < members {
            self.join_next();
        }
    }

    fn join_next(&mut self) {
        let next = user(self.members);
        self.send(&next, join(&next));
        self.members += 1;
    }

    fn with_view<R>(&self, work: impl FnOnce(&View<'_>) -> R) -> R {
        let snapshot = self.server.store.snapshot();
        work(&View::open(&self.server.rooms, &snapshot, &self.room_id).expect("it reads").expect("it is there"))
    }

    fn state(&self) -> StateRoot {
        self.with_view(|view| view.current_state())
    }
}

/// What no homeserver on this machine can beat.
fn limits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limit");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&store::Options::for_tests(directory.path())).expect("a new database opens");
    let runtime = Runtime::new().expect("threads can be started");
    for writers in [1, 8] {
        group.throughput(Throughput::Elements(writers));
        group.bench_function(BenchmarkId::new("durable commits of 1 KiB", writers), |bencher| {
            bencher.iter(|| {
                runtime.block_on(join_all((0..writers).map(|n| {
                    store.commit(move |tx| {
                        let key = (&*user(usize::try_from(n).expect("few writers")), RoomNid(tx.pos().0), "");
                        let row = AccountDatum { changed: tx.pos(), content: "x".repeat(1024) };
                        tx.put::<AccountData>(&key, &row);
                        Ok::<_, store::Error>(())
                    })
                })))
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let key = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "1".to_owned()).expect("a new key is one");
    let event: CanonicalJsonObject = serde_json::from_value(json!({
        "auth_events": ["$a", "$b", "$c"], "prev_events": ["$d"], "depth": 12, "origin_server_ts": 1_700_000_000_000_u64,
        "room_id": "!room:bench", "sender": "@user0:bench", "type": "m.room.message",
        "content": { "msgtype": "m.text", "body": "A message of some forty characters, say." },
    }))
    .expect("it is canonical JSON");
    group.bench_function("hash and sign an event", |bencher| {
        bencher.iter(|| {
            let mut event = event.clone();
            hash_and_sign_event("bench", &key, &mut event, &RoomVersionRules::V11.redaction).expect("it can be signed");
            black_box(event)
        });
    });
    group.finish();
}

/// One event at a time, each durable before the next.
fn append(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    for size in sizes() {
        let start = Instant::now();
        bench.grow(size);
        eprintln!("{size} members after {:.1?}", start.elapsed());
        let mut group = criterion.benchmark_group(format!("{size} members"));
        group.measurement_time(Duration::from_secs(4)).sample_size(20);
        let sender = user(0);
        group.bench_function("message", |bencher| bencher.iter(|| bench.send(&sender, message())));
        group.bench_function("8 messages at once", |bencher| {
            bencher.iter(|| {
                let sends = (0..8).map(|_| append::send(&bench.server, bench.room, &sender, message(), None));
                bench.runtime.block_on(join_all(sends))
            });
        });
        let before = bench.state();
        group.bench_function("join", |bencher| bencher.iter(|| bench.join_next()));
        let after = bench.state();
        let name = user(size / 2);
        group.bench_function("look up one historic member", |bencher| {
            bencher.iter(|| bench.with_view(|view| view.state_nid(before, &StateEventType::RoomMember, name.as_str())));
        });
        let changed = bench.with_view(|view| view.tries().diff(before, after)).expect("it reads").len();
        group.bench_function(BenchmarkId::new("difference of joins", changed), |bencher| {
            bencher.iter(|| bench.with_view(|view| view.tries().diff(before, after)));
        });
        group.bench_function("one key of the trie", |bencher| {
            bencher.iter(|| bench.with_view(|view| view.tries().get(before, StateKeyNid(3))));
        });
        group.finish();
    }
}

criterion_group!(benches, limits, append);
criterion_main!(benches);

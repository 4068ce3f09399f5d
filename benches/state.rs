//! What it costs to bring the forks of a room together, against the room's size and the number of forks:
//! `cargo bench --bench state`.
//!
//! `ROOM_SIZES=1000,10000` sets the numbers of members, `FORKS=2,50` those of the forks.

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
        state::resolve,
    },
    store::{EventNid, RoomNid},
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId};
use serde_json::{Map, json, value::to_raw_value};
use tokio::runtime::Runtime;

fn numbers(variable: &str, default: &str) -> Vec<usize> {
    let numbers = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    numbers.split(',').map(|number| number.trim().parse().expect("it holds numbers")).collect()
}

fn user(n: usize) -> OwnedUserId {
    UserId::parse(format!("@user{n}:bench")).expect("it is a user id")
}

struct Bench {
    runtime: Runtime,
    server: Arc<Server>,
    room: RoomNid,
    room_id: OwnedRoomId,
    members: usize,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(version: RoomVersionId) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::for_tests("bench");
        directory.path().clone_into(&mut config.database_path);
        let runtime = Runtime::new().expect("threads can be started");
        let server = Server::open(config, Clock::System, Random::from_seed(1)).expect("a new database opens");
        let new = NewRoom {
            version,
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
        let room_id = runtime.block_on(create::create(&server, &user(0), new)).expect("a room");
        let snapshot = server.store.snapshot();
        let room = View::open(&server.rooms, &snapshot, &room_id).expect("it reads").expect("it is there").nid;
        drop(snapshot);
        Self { runtime, server, room, room_id, members: 1, _directory: directory }
    }

    fn set(&self, sender: &UserId, event_type: &str, state_key: &str, content: &serde_json::Value) -> OwnedEventId {
        let draft = Draft::state(event_type.into(), state_key, to_raw_value(content).expect("a value is JSON"));
        let sent = append::send(&self.server, self.room, sender, draft, None);
        self.runtime.block_on(sent).expect("it is allowed")
    }

    /// Sets `user`'s member event; everybody is in the room under some name.
    fn member(&self, user: &UserId, name: &str) -> OwnedEventId {
        self.set(user, "m.room.member", user.as_str(), &json!({ "membership": "join", "displayname": name }))
    }

    fn grow(&mut self, members: usize) {
        while self.members < members {
            let next = user(self.members);
            self.member(&next, next.localpart());
            self.members += 1;
        }
    }

    /// What is different in each of `forks`: the topic, and the name of somebody else.
    fn changes(&self, forks: usize) -> Vec<[OwnedEventId; 2]> {
        let change = |fork: usize| {
            let name = format!("somebody in fork {fork}");
            let topic = self.set(&user(0), "m.room.topic", "", &json!({ "topic": name }));
            [topic, self.member(&user(fork + 1), &name)]
        };
        (0..forks).map(change).collect()
    }

    /// Brings the current state with the changes of each fork together, as an event after all of them does.
    fn resolve(&self, base: StateRoot, changes: &[[OwnedEventId; 2]]) -> StateRoot {
        let snapshot = self.server.store.snapshot();
        let view = View::open(&self.server.rooms, &snapshot, &self.room_id).expect("it reads").expect("it is there");
        let mut tries = view.tries();
        let nid = |id: &EventId| -> EventNid { view.event_nid(id).expect("it reads").expect("it is there") };
        let mut states = Vec::new();
        for (fork, [topic, member]) in changes.iter().enumerate() {
            let keys = [("m.room.topic", String::new(), topic), ("m.room.member", user(fork + 1).to_string(), member)];
            let mut state = base;
            for (event_type, state_key, event) in keys {
                let key = view.state_key_nid(event_type, &state_key).expect("it reads").expect("it is there");
                state = tries.set(state, key, Some(nid(event))).expect("it reads");
            }
            states.push(state);
        }
        resolve(&view, &mut tries, &states).expect("it resolves")
    }

    fn current_state(&self) -> StateRoot {
        let snapshot = self.server.store.snapshot();
        View::open(&self.server.rooms, &snapshot, &self.room_id)
            .expect("it reads")
            .expect("it is there")
            .current_state()
    }
}

fn forks(criterion: &mut Criterion) {
    let (sizes, forks) = (numbers("ROOM_SIZES", "1000,10000,100000"), numbers("FORKS", "2,10,50"));
    let most = forks.iter().copied().max().unwrap_or(0);
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let mut bench = Bench::new(version.clone());
        for &size in &sizes {
            let start = Instant::now();
            bench.grow(size.max(most + 1));
            let base = bench.current_state();
            let changes = bench.changes(most);
            eprintln!("version {version}, {size} members after {:.1?}", start.elapsed());
            let mut group = criterion.benchmark_group(format!("version {version}, {size} members"));
            group.measurement_time(Duration::from_secs(3)).sample_size(10);
            for &forks in &forks {
                group.bench_function(BenchmarkId::new("forks", forks), |bencher| {
                    bencher.iter(|| black_box(bench.resolve(base, &changes[..forks])));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, forks);
criterion_main!(benches);

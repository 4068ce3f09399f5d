//! What `/sync` costs: `cargo bench --bench sync`. `SYNC_ROOMS=10,1000` sets how many rooms the user is in; the server has
//! as many as the largest of these each time, so that the size of the database makes no difference.

mod support;

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe::{
    Server,
    store::RoomNid,
    sync::{
        self, Request,
        sliding::{self, Asked},
        token::Token,
    },
    user::{
        account,
        presence::State,
        session::{self, Caller, DeviceRequest},
    },
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ruma::{OwnedDeviceId, OwnedUserId, RoomVersionId};
use serde_json::json;
use support::{join, message, next_batch, numbers, user, whole};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The events of each room's timeline.
const MESSAGES: usize = 20;

/// The other members of each room.
const OTHERS: usize = 9;

/// A server with many rooms, and one user who is in some of them.
struct Bench {
    runtime: Runtime,
    server: Arc<Server>,
    device: OwnedDeviceId,
    rooms: Vec<RoomNid>,
    _directory: TempDir,
}

impl Bench {
    /// A server with `all` rooms; user 0 is in so many of them.
    fn new(rooms: usize, all: usize) -> Self {
        let support::Bench { runtime, server, directory } = support::Bench::new();
        let session = async {
            account::create(&server, "user0", "password".to_owned(), false).await?;
            session::log_in(&server, user(0), None, DeviceRequest::default()).await
        };
        let device = runtime.block_on(session).expect("a new account").device_id;
        let found = |creator: usize, count: usize| {
            runtime.block_on(futures_util::future::join_all((0..count).map(|_| found(&server, user(creator)))))
        };
        let rooms = found(0, rooms);
        found(OTHERS + 1, all - rooms.len());
        Self { runtime, server, device, rooms, _directory: directory }
    }

    /// The answer to user 0; the position in it is that of now.
    fn answer(&self, since: Option<Token>) -> Bytes {
        let request = Request::new(user(0), self.device.clone(), since);
        whole(&self.runtime, self.runtime.block_on(sync::sync(&self.server, request)).expect("it reads"))
    }

    /// The body of an answer of sliding sync to user 0, who wants the first `rooms` rooms, with their last message and what
    /// a list of rooms shows.
    fn slide(&self, rooms: usize, pos: Option<&str>) -> Vec<u8> {
        let required = [
            ["m.room.name", ""],
            ["m.room.encryption", ""],
            ["m.room.member", "$LAZY"],
            ["m.room.member", "$ME"],
            ["m.room.topic", ""],
            ["m.room.avatar", ""],
            ["m.room.canonical_alias", ""],
            ["m.room.power_levels", ""],
            ["org.matrix.msc3401.call.member", "*"],
            ["m.room.join_rules", ""],
            ["m.room.tombstone", ""],
            ["m.room.create", ""],
            ["m.room.history_visibility", ""],
            ["io.element.functional_members", ""],
            ["m.space.parent", "*"],
            ["m.space.child", "*"],
        ];
        let filters = json!({ "not_room_types": ["m.space"] });
        let ranges = [[0, rooms - 1]];
        let list = json!({ "ranges": ranges, "timeline_limit": 1, "required_state": required, "filters": filters });
        let extensions = json!({
            "account_data": { "enabled": true }, "receipts": { "enabled": true }, "typing": { "enabled": true },
        });
        let body = json!({ "conn_id": "room-list", "lists": { "all_rooms": list }, "extensions": extensions });
        let body = serde_json::from_value(body).expect("it is a request");
        let pos = pos.map(|pos| pos.parse().expect("it is a position"));
        let asked =
            Asked::new(Caller::on_device(user(0), self.device.clone()), pos, Duration::ZERO, State::Offline, body);
        self.runtime.block_on(sliding::sync(&self.server, asked.expect("it is in bounds"))).expect("it reads")
    }

    fn say(&self, room: RoomNid) {
        self.runtime.block_on(support::send(&self.server, room, &user(0), message()));
    }
}

fn pos_in(body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).expect("it is JSON");
    answer["pos"].as_str().expect("it has a position").to_owned()
}

/// A room with members and messages.
async fn found(server: &Arc<Server>, creator: OwnedUserId) -> RoomNid {
    let (room, _) = support::found(server, &creator, RoomVersionId::V11).await;
    for member in (1..=OTHERS).map(user) {
        support::send(server, room, &member, join(&member)).await;
    }
    for _ in 0..MESSAGES {
        support::send(server, room, &user(1), message()).await;
    }
    room
}

fn syncs(criterion: &mut Criterion) {
    let counts = numbers("SYNC_ROOMS", "10,1000");
    for &count in &counts {
        let bench = Bench::new(count, counts.iter().copied().max().unwrap_or(count));
        let mut group = criterion.benchmark_group("sync");
        let first = bench.answer(None);
        let start = next_batch(&first);
        group.bench_function(BenchmarkId::new("incremental, no news, rooms", count), |bencher| {
            bencher.iter(|| black_box(bench.answer(Some(start))));
        });
        bench.say(bench.rooms[0]);
        group.bench_function(BenchmarkId::new("incremental, one message, rooms", count), |bencher| {
            bencher.iter(|| black_box(bench.answer(Some(start))));
        });
        group.bench_function(BenchmarkId::new("incremental, right after each message, rooms", count), |bencher| {
            bencher.iter_custom(|times| {
                let mut took = Duration::ZERO;
                let mut last = next_batch(&bench.answer(None));
                for n in 0..times {
                    bench.say(bench.rooms[usize::try_from(n).unwrap_or_default() % bench.rooms.len()]);
                    let asked = Instant::now();
                    let answer = bench.answer(Some(last));
                    took += asked.elapsed();
                    last = next_batch(&answer);
                }
                took
            });
        });
        group.bench_function(BenchmarkId::new("sliding, first answer of 20 rooms, rooms", count), |bencher| {
            bencher.iter(|| black_box(bench.slide(20, None)));
        });
        let pos = pos_in(&bench.slide(count, None));
        group.bench_function(BenchmarkId::new("sliding, no news, rooms", count), |bencher| {
            bencher.iter(|| black_box(bench.slide(count, Some(&pos))));
        });
        bench.say(bench.rooms[0]);
        group.bench_function(BenchmarkId::new("sliding, one message, rooms", count), |bencher| {
            bencher.iter(|| black_box(bench.slide(count, Some(&pos))));
        });
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("sliding, first answer of all rooms, rooms", count), |bencher| {
            bencher.iter(|| black_box(bench.slide(count, None)));
        });
        group.throughput(Throughput::Bytes(first.len() as u64));
        group.bench_function(BenchmarkId::new("initial, rooms", count), |bencher| {
            bencher.iter(|| black_box(bench.answer(None)));
        });
    }
}

criterion_group!(benches, syncs);
criterion_main!(benches);

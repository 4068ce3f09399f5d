//! What events and states cost, beside what the machine can do at all: `cargo bench --bench rooms`.
//!
//! `ROOM_SIZES=10,1000` sets the sizes of the rooms; the largest of the default takes a minute to build.

mod support;

use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

use chappe::{
    event::{format, hash},
    store::{self, RoomNid, StateKeyNid, Store},
    user::tables::{AccountData, AccountDatum},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use ruma::{
    CanonicalJsonObject, RoomVersionId,
    events::StateEventType,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, PublicKeyMap, hash_and_sign_event},
};
use serde_json::json;
use support::{Bench, message, numbers, user};
use tokio::runtime::Runtime;

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
    let mut signed = event;
    hash_and_sign_event("bench", &key, &mut signed, &RoomVersionRules::V11.redaction).expect("it can be signed");
    let bytes = serde_json::to_vec(&signed).expect("it is JSON");
    let of_bench = BTreeMap::from([("ed25519:1".to_owned(), Base64::new(key.public_key().to_vec()))]);
    let keys = PublicKeyMap::from([("bench".to_owned(), of_bench)]);
    group.bench_function("verify an event", |bencher| {
        bencher.iter(|| {
            let received = format::parse(&bytes, &RoomVersionRules::V11).expect("its format is right");
            black_box(hash::verify(received, &RoomVersionRules::V11, &keys).expect("its signature is right"))
        });
    });
    let (from, mut to) = (vec![1_u8; 64 << 20], vec![0_u8; 64 << 20]);
    group.throughput(Throughput::Bytes(64 << 20));
    group
        .bench_function("copy 64 MiB", |bencher| bencher.iter(|| black_box(&mut to).copy_from_slice(black_box(&from))));
    group.finish();
}

/// One event at a time, each durable before the next.
fn append(criterion: &mut Criterion) {
    let bench = Bench::new();
    let mut room = bench.room(RoomVersionId::V11);
    for size in numbers("ROOM_SIZES", "10,1000,100000") {
        let start = Instant::now();
        room.grow(size);
        eprintln!("{size} members after {:.1?}", start.elapsed());
        let mut group = criterion.benchmark_group(format!("{size} members"));
        group.measurement_time(Duration::from_secs(4)).sample_size(20);
        let sender = user(0);
        group.bench_function("message", |bencher| bencher.iter(|| room.send(&sender, message())));
        group.bench_function("8 messages at once", |bencher| {
            bencher.iter(|| {
                let sends = (0..8).map(|_| support::send(&bench.server, room.nid, &sender, message()));
                bench.runtime.block_on(join_all(sends))
            });
        });
        let before = room.with_view(|view| view.current_state());
        group.bench_function("join", |bencher| bencher.iter(|| room.join_next()));
        let after = room.with_view(|view| view.current_state());
        let name = user(size / 2);
        group.bench_function("look up one historic member", |bencher| {
            bencher.iter(|| room.with_view(|view| view.state_nid(before, &StateEventType::RoomMember, name.as_str())));
        });
        let diff = || room.with_view(|view| view.tries().diff(before, after)).expect("it reads");
        let changed = u32::try_from(diff().len()).expect("they are few").max(1);
        group.bench_function("difference of joins, by join", |bencher| {
            bencher.iter_custom(|times| {
                let start = Instant::now();
                (0..times).for_each(|_| drop(black_box(diff())));
                start.elapsed() / changed
            });
        });
        group.bench_function("one key of the trie", |bencher| {
            bencher.iter(|| room.with_view(|view| view.tries().get(before, StateKeyNid(3))));
        });
        group.finish();
    }
}

criterion_group!(benches, limits, append);
criterion_main!(benches);

//! What it costs to bring the forks of a room together, against the room's size and the number of forks:
//! `cargo bench --bench state`.
//!
//! `ROOM_SIZES=1000,10000` sets the numbers of members, `FORKS=2,50` those of the forks.

mod support;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use chappe::{event::StateRoot, room::state::resolve, store::EventNid};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ruma::{EventId, OwnedEventId, RoomVersionId};
use serde_json::json;
use support::{Bench, BenchRoom, numbers, state, user};

/// What is different in each of `forks`: the topic, and the name of somebody else.
fn changes(room: &BenchRoom<'_>, forks: usize) -> Vec<[OwnedEventId; 2]> {
    let change = |fork: usize| {
        let name = format!("somebody in fork {fork}");
        let somebody = user(fork + 1);
        let topic = room.send(&user(0), state("m.room.topic", "", &json!({ "topic": name })));
        let member = json!({ "membership": "join", "displayname": name });
        [topic, room.send(&somebody, state("m.room.member", somebody.as_str(), &member))]
    };
    (0..forks).map(change).collect()
}

/// Brings the current state with the changes of each fork together, as an event after all of them does.
fn resolved(room: &BenchRoom<'_>, base: StateRoot, changes: &[[OwnedEventId; 2]]) -> StateRoot {
    room.with_view(|view| {
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
        resolve(view, &mut tries, &states).expect("it resolves")
    })
}

fn forks(criterion: &mut Criterion) {
    let (sizes, forks) = (numbers("ROOM_SIZES", "1000,10000,100000"), numbers("FORKS", "2,10,50"));
    let most = forks.iter().copied().max().unwrap_or(0);
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let bench = Bench::new();
        let mut room = bench.room(version.clone());
        for &size in &sizes {
            let start = Instant::now();
            room.grow(size.max(most + 1));
            let base = room.with_view(|view| view.current_state());
            let changes = changes(&room, most);
            eprintln!("version {version}, {size} members after {:.1?}", start.elapsed());
            let mut group = criterion.benchmark_group(format!("version {version}, {size} members"));
            group.measurement_time(Duration::from_secs(3)).sample_size(10);
            for &forks in &forks {
                group.bench_function(BenchmarkId::new("forks", forks), |bencher| {
                    bencher.iter(|| black_box(resolved(&room, base, &changes[..forks])));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, forks);
criterion_main!(benches);

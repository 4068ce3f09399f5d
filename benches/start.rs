//! How long `chappe serve` takes from its start to its first answer, and to its end, with many events stored:
//! `cargo bench --bench start`. `START_EVENTS=1000000` sets how many.

mod support;

use std::{fs, path::Path, time::Instant};

use futures_util::{StreamExt, stream};
use ruma::RoomVersionId;
use support::{Bench, message, numbers, served::Served, user};

const ROOMS: usize = 100;

/// How many events are on their way into the store at a time.
const AT_ONCE: usize = 256;

/// After how many events a line shows how far it is.
const SHOWN_EVERY: usize = 100_000;

const RUNS: usize = 5;

fn main() {
    let events = numbers("START_EVENTS", "1000000")[0];
    let Bench { runtime, server, directory } = Bench::new();
    let start = Instant::now();
    runtime.block_on(async {
        let found = |_| async { support::found(&server, &user(0), RoomVersionId::V11).await };
        let rooms: Vec<_> = stream::iter(0..ROOMS).then(found).collect().await;
        let sends = (0..events).map(|n| {
            let (server, room) = (&server, rooms[n % ROOMS].0);
            async move { support::send(server, room, &user(0), message()).await }
        });
        let sent = stream::iter(sends).buffer_unordered(AT_ONCE).enumerate();
        sent.for_each(|(n, _)| async move {
            if (n + 1) % SHOWN_EVERY == 0 {
                println!("{} events stored after {:.0?}", n + 1, start.elapsed());
            }
        })
        .await;
    });
    println!(
        "{events} events in {ROOMS} rooms stored in {:.1?}, {} MiB",
        start.elapsed(),
        size(directory.path()) >> 20
    );
    drop(server);
    drop(runtime);

    for run in 1..=RUNS {
        let start = Instant::now();
        let served = Served::start(directory.path(), "");
        let first_answer = start.elapsed();
        println!("run {run}: first answer after {first_answer:.1?}, ended after {:.1?}", served.stop());
    }
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("it reads"));
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size(&entry.path()),
            Ok(found) => found.len(),
            // Removed meanwhile, by a compaction.
            Err(_) => 0,
        })
        .sum()
}

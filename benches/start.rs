//! How long `chappe serve` takes from its start to its first answer, and to its end, with many events stored:
//! `cargo bench --bench start`. `START_EVENTS=1000000` sets how many.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use ruma::RoomVersionId;
use rustix::process::{Pid, Signal, kill_process};
use support::{Bench, message, numbers, user};

const ROOMS: usize = 100;

/// How many events are on their way into the store at a time.
const AT_ONCE: usize = 256;

const RUNS: usize = 5;

fn main() {
    let events = numbers("START_EVENTS", "1000000")[0];
    let Bench { runtime, server, directory } = Bench::new();
    let start = Instant::now();
    runtime.block_on(async {
        let rooms: Vec<_> =
            stream::iter(0..ROOMS).then(|_| support::found(&server, RoomVersionId::V11)).collect().await;
        let sends = (0..events).map(|n| {
            let (server, room) = (&server, rooms[n % ROOMS].0);
            async move { support::send(server, room, &user(0), message()).await }
        });
        stream::iter(sends).buffer_unordered(AT_ONCE).for_each(|_| async {}).await;
    });
    println!(
        "{events} events in {ROOMS} rooms stored in {:.1?}, {} MiB",
        start.elapsed(),
        size(directory.path()) >> 20
    );
    drop(server);
    drop(runtime);

    let address = free_address();
    let configuration = directory.path().join("bench.toml");
    let text = format!(
        "[global]\nserver_name = \"bench\"\ndatabase_path = {:?}\naddress = \"{}\"\nport = {}\nlog = \"error\"\n",
        directory.path(),
        address.ip(),
        address.port()
    );
    fs::write(&configuration, text).expect("a file can be written");
    for run in 1..=RUNS {
        let start = Instant::now();
        let mut process = serve(&configuration);
        while !answers(address) {
            assert!(process.try_wait().expect("it is our process").is_none(), "the server has ended");
            thread::sleep(Duration::from_millis(1));
        }
        let first_answer = start.elapsed();
        let stop = Instant::now();
        kill_process(Pid::from_child(&process), Signal::TERM).expect("it runs");
        assert!(process.wait().expect("it is our process").success(), "the server failed at its end");
        println!("run {run}: first answer after {first_answer:.1?}, ended after {:.1?}", stop.elapsed());
    }
}

fn serve(configuration: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_chappe"))
        .args(["serve", "--config"])
        .arg(configuration)
        .stdin(Stdio::null())
        .spawn()
        .expect("the server can be started")
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("there is a free port")
}

fn answers(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).map(|()| answer == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
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

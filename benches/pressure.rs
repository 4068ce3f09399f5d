//! What the server's memory comes to when all is asked of it at once: `cargo bench --bench pressure`. In a room of
//! `PRESSURE_MEMBERS` (100,000) members, `PRESSURE_CLIENTS` (1,000) clients sync while others join, read its members, upload files
//! of the largest size, and say something. Fails if the process outgrows its budget, or does not recover afterwards.

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe::user::{
    account::PreparedAccount,
    session::{DeviceRequest, NewSession},
};
use parking_lot::Mutex;
use reqwest::{Client, Method, RequestBuilder};
use ruma::RoomVersionId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use support::{Bench, numbers, served::Served, user};
use tokio::time::timeout;

/// As in conduit.toml.
const BUDGET: u64 = 256 << 20;
/// What the process is beside its budget: its code, its threads' stacks, and the answers that are being made and sent.
const BESIDE: u64 = 256 << 20;
const DURATION: Duration = Duration::from_secs(60);
const JOINING: usize = 500;
const READING_MEMBERS: usize = 8;
const UPLOADING: usize = 4;
const LARGEST_FILE: usize = 50 << 20;

fn main() {
    let [members, clients] = [("PRESSURE_MEMBERS", "100000"), ("PRESSURE_CLIENTS", "1000")]
        .map(|(variable, default)| numbers(variable, default)[0]);
    raise_file_limit();
    rustls::crypto::ring::default_provider().install_default().expect("nobody did so before");
    let bench = Bench::new();
    let start = Instant::now();
    let mut room = bench.room(RoomVersionId::V11);
    room.grow(members);
    let room_id = room.room_id.clone();
    // Those who sync are the first members, those who join come after the last one.
    let tokens: Vec<String> = (0..clients).chain(members..members + JOINING).map(|n| log_in(&bench, n)).collect();
    println!("a room of {members} members was made in {:.1?}", start.elapsed());
    let Bench { runtime, server, directory } = bench;
    drop(server);

    let served = Served::start(directory.path(), "[global.rate_limits]\nenabled = false\n");
    let load = Load {
        http: Client::new(),
        base: format!("http://{}/_matrix", served.address),
        room_path: format!("client/v3/rooms/{room_id}"),
        end: Instant::now() + DURATION,
        statuses: Mutex::default(),
    };
    let (syncing, joining) = tokens.split_at(clients);
    println!("before: {} MiB resident", served.resident().0 >> 20);
    runtime.block_on(async {
        tokio::join!(
            all(syncing.iter().map(|token| load.sync(token))),
            all(joining.iter().map(|token| load.join(token))),
            all(syncing.iter().take(READING_MEMBERS).map(|token| load.read_members(token))),
            all(syncing.iter().take(UPLOADING).map(|token| load.upload(token))),
            load.talk(&syncing[0]),
        );
    });
    for ((what, status), times) in &*load.statuses.lock() {
        println!("{what}: {status}, {times} times");
    }
    let (now, peak) = served.resident();
    println!("resident: at most {} MiB, of a budget of {} MiB; afterwards {} MiB", peak >> 20, BUDGET >> 20, now >> 20);

    let start = Instant::now();
    let answer = runtime.block_on(load.request(Method::GET, "client/v3/sync?timeout=0", &syncing[0]).send());
    assert!(answer.expect("it answers").status().is_success(), "it does not recover");
    println!("a sync afterwards took {:.1?}, the end {:.1?}", start.elapsed(), served.stop());
    let unexpected: Vec<_> =
        load.statuses.lock().keys().filter(|(_, status)| !EXPECTED.contains(&&**status)).cloned().collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    assert!(peak <= BUDGET + BESIDE, "the process has outgrown its budget");
}

/// Answers that a client understands: done, or "later".
const EXPECTED: [&str; 3] = ["200", "429", "503"];

struct Load {
    http: Client,
    base: String,
    room_path: String,
    end: Instant,
    /// How often each kind of request got each answer.
    statuses: Mutex<BTreeMap<(&'static str, String), u64>>,
}

impl Load {
    fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/{path}", self.base)).bearer_auth(token)
    }

    /// Sends, reads the whole answer and notes its status; the body if it was a good one.
    async fn ask(&self, what: &'static str, request: RequestBuilder) -> Option<Bytes> {
        let answer = async {
            let answer = request.send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        };
        let (status, body) = match answer.await {
            Ok((status, body)) => (status.as_u16().to_string(), Some(body).filter(|_| status.is_success())),
            Err(error) => (format!("{error:?}"), None),
        };
        *self.statuses.lock().entry((what, status)).or_default() += 1;
        if body.is_none() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        body
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// As a client does: all of it once, then what is new.
    async fn sync(&self, token: &str) {
        const FILTER: &str = "%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D";
        let mut since = String::new();
        while !self.is_over() {
            let path = format!("client/v3/sync?timeout=10000&filter={FILTER}{since}");
            if let Some(body) = self.ask("sync", self.request(Method::GET, &path, token)).await {
                let answer: Value = serde_json::from_slice(&body).expect("it is JSON");
                since = format!("&since={}", answer["next_batch"].as_str().expect("it has a position"));
            }
        }
    }

    async fn join(&self, token: &str) {
        let path = format!("{}/join", self.room_path);
        while !self.is_over() && self.ask("join", self.request(Method::POST, &path, token).body("{}")).await.is_none() {
        }
    }

    /// The largest answer there is.
    async fn read_members(&self, token: &str) {
        let path = format!("{}/members", self.room_path);
        while !self.is_over() {
            self.ask("members", self.request(Method::GET, &path, token)).await;
        }
    }

    async fn upload(&self, token: &str) {
        let file = Bytes::from(vec![7; LARGEST_FILE]);
        while !self.is_over() {
            let request = self.request(Method::POST, "media/v3/upload", token).body(file.clone());
            self.ask("upload", request).await;
        }
    }

    /// Each message wakes everybody.
    async fn talk(&self, token: &str) {
        let mut number = 0;
        while !self.is_over() {
            let path = format!("{}/send/m.room.message/{number}", self.room_path);
            let body = r#"{"msgtype": "m.text", "body": "To all."}"#;
            self.ask("message", self.request(Method::PUT, &path, token).body(body)).await;
            number += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Waits for all of them, each with time to end what it has begun.
async fn all(work: impl Iterator<Item = impl Future<Output = ()>>) {
    let work = futures_util::future::join_all(work);
    timeout(DURATION * 3, work).await.expect("a request was not answered");
}

/// A new account for user `n`, and its access token.
fn log_in(bench: &Bench, n: usize) -> String {
    let server = &bench.server;
    let account = PreparedAccount::without_password(server, user(n));
    let session = NewSession::prepare(server, user(n), DeviceRequest::default()).expect("a new device");
    let written = server.store.commit(move |tx| {
        account.write(tx)?;
        session.write(tx)
    });
    bench.runtime.block_on(written).expect("a new account").tokens.access
}

/// A thousand clients have a thousand connections.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("it is allowed");
}

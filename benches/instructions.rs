//! How many instructions a few hot paths take. `benches/instructions` runs this under callgrind, which counts them, and
//! compares with `instructions.tsv`: other than times, the counts are the same on a busy machine.
//!
//! Everything that could differ from run to run is fixed: keys, times, chance. What other threads do for a path (the
//! database's two, those of `Server::blocking` and `Server::quick`) counts as well.

mod support;

use std::{collections::BTreeMap, ffi::CString, hint::black_box, process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use chappe::{
    Server,
    clock::Clock,
    config::Config,
    event::{Draft, format, hash},
    random::Random,
    room::state::trie::{KnownNodes, MadeNodes, Tries},
    store::{self, EventNid, RoomNid, StateKeyNid, Store, Transaction},
    sync::{self, Request, token::Token},
    user::{
        account,
        presence::State,
        session::{self, DeviceRequest},
    },
};
use ruma::{
    CanonicalJsonObject, OwnedDeviceId, RoomVersionId,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, PublicKeyMap, hash_and_sign_event},
};
use serde_json::{json, value::to_raw_value};
use support::{found, join, next_batch, send, user, whole};
use tokio::runtime::{Builder, Runtime};

const START_MS: u64 = 1_767_225_600_000;

/// What callgrind is asked from inside the program that it runs: <https://valgrind.org/docs/manual/cl-manual.html>
mod callgrind {
    const RUNNING_ON_VALGRIND: usize = 0x1001;
    const DUMP_STATS_AT: usize = 0x4354_0003; // "CT", and the third of its requests
    const START_INSTRUMENTATION: usize = 0x4354_0004;
    const STOP_INSTRUMENTATION: usize = 0x4354_0005;

    pub fn is_running() -> bool {
        request(RUNNING_ON_VALGRIND, 0) != 0
    }

    pub fn start() {
        request(START_INSTRUMENTATION, 0);
    }

    pub fn stop() {
        request(STOP_INSTRUMENTATION, 0);
    }

    /// Writes what was counted since the last time into a file that names `reason`.
    pub fn dump(reason: &std::ffi::CStr) {
        request(DUMP_STATS_AT, reason.as_ptr() as usize);
    }

    /// Valgrind knows these instructions, which do nothing, and looks at two registers; without it the answer is 0.
    #[cfg(target_arch = "x86_64")]
    fn request(number: usize, argument: usize) -> usize {
        let request = [number, argument, 0, 0, 0, 0];
        let mut answer = 0_usize;
        // SAFETY: rotating a register by 128 bits in all and exchanging one with itself changes nothing; Valgrind reads
        // `request`, and what `argument` points to, before it goes on, and writes to RDX.
        unsafe {
            std::arch::asm!(
                "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
                in("rax") request.as_ptr(), inout("rdx") answer, inout("rdi") 0_usize => _, options(nostack),
            );
        }
        answer
    }

    /// The stored figures are those of x86-64.
    #[cfg(not(target_arch = "x86_64"))]
    fn request(_: usize, _: usize) -> usize {
        0
    }
}

/// Counts the instructions of `work`, for `times` times; it is called some times before, so that caches are filled.
fn measure(path: &str, times: u32, mut work: impl FnMut(u32)) {
    let warm_up = times / 2 + 1;
    (0..warm_up).for_each(&mut work);
    callgrind::start();
    (warm_up..warm_up + times).for_each(&mut work);
    callgrind::stop();
    let reason = CString::new(format!("{path}/{times}")).expect("names hold no zero byte");
    callgrind::dump(&reason);
}

fn main() -> ExitCode {
    if !callgrind::is_running() {
        eprintln!("Nothing counts the instructions: run benches/instructions");
        return ExitCode::from(2);
    }
    let small = Small::new();
    measure("append_message_10_members", 60, |n| small.say(n));
    let start = next_batch(&small.answer(None));
    small.say(0);
    measure("incremental_sync_one_event", 60, |_| {
        black_box(small.answer(Some(start)));
    });
    small.join_a_large_room();
    trie();
    incoming_event();
    ExitCode::SUCCESS
}

/// A server with a room of ten members, one of whom is logged in.
struct Small {
    runtime: Runtime,
    server: Arc<Server>,
    room: RoomNid,
    device: OwnedDeviceId,
    _directory: tempfile::TempDir,
}

impl Small {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::for_tests("bench");
        directory.path().clone_into(&mut config.database_path);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let server = Server::open(config, Clock::manual(START_MS), Random::from_seed(1)).expect("a new database opens");
        let session = async {
            account::create(&server, "user0", "password".to_owned(), false).await?;
            session::log_in(&server, user(0), None, DeviceRequest::default()).await
        };
        let device = runtime.block_on(session).expect("a new account").device_id;
        let room = runtime.block_on(async {
            let (room, _) = found(&server, &user(0), RoomVersionId::V11).await;
            for member in (1..10).map(user) {
                send(&server, room, &member, join(&member)).await;
            }
            room
        });
        Self { runtime, server, room, device, _directory: directory }
    }

    fn say(&self, n: u32) {
        let content = json!({ "msgtype": "m.text", "body": format!("A message of some forty characters: {n:4}") });
        let draft = Draft::message("m.room.message".into(), to_raw_value(&content).expect("a value is JSON"));
        self.runtime.block_on(send(&self.server, self.room, &user(0), draft));
    }

    /// What a join takes must not depend on how many are in the room.
    fn join_a_large_room(&self) {
        const MEMBERS: u32 = 500;
        let (room, _) = self.runtime.block_on(found(&self.server, &user(0), RoomVersionId::V11));
        let join_as = |n: u32| {
            let member = user(n as usize);
            self.runtime.block_on(send(&self.server, room, &member, join(&member)));
        };
        (1..MEMBERS).for_each(join_as);
        measure("append_join_500_members", 40, |n| join_as(MEMBERS + n));
    }

    fn answer(&self, since: Option<Token>) -> Bytes {
        let request = Request::new(user(0), self.device.clone(), since);
        whole(&self.runtime, self.runtime.block_on(sync::sync(&self.server, request)).expect("it reads"))
    }
}

/// A change of one member of ten thousand.
fn trie() {
    const MEMBERS: u32 = 10_000;
    let room = RoomNid(1);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&store::Options::for_tests(directory.path())).expect("a new database opens");
    let known = KnownNodes::default();
    let members: BTreeMap<_, _> = (0..MEMBERS).map(|n| (StateKeyNid(n), EventNid(n))).collect();
    let (root, made) = {
        let snapshot = store.snapshot();
        let mut tries = Tries::new(&snapshot, &known, room);
        let root = tries.of(&members).expect("it reads");
        (root, tries.into_made())
    };
    let write = move |tx: &mut Transaction<'_>| {
        MadeNodes::write(&made, tx, room);
        Ok::<_, store::Error>(())
    };
    store.commit_blocking(write).expect("it is written");
    let snapshot = store.snapshot();
    measure("state_trie_update_10000_members", 200, |n| {
        let mut tries = Tries::new(&snapshot, &known, room);
        let key = StateKeyNid(n * 31 % MEMBERS);
        black_box(tries.set(root, key, Some(EventNid(MEMBERS + n))).expect("it reads"));
        black_box(tries.into_made());
    });
}

/// A message of another server, from its bytes to an event whose signature and hash are right.
fn incoming_event() {
    let der: Vec<u8> = [&b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"[..], &[7; 32]].concat();
    let key = Ed25519KeyPair::from_der(&der, "1".to_owned()).expect("it is a key in PKCS #8");
    let rules = RoomVersionRules::V11;
    let mut event: CanonicalJsonObject = serde_json::from_value(json!({
        "auth_events": ["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "$BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
        "prev_events": ["$CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"], "depth": 12, "origin_server_ts": START_MS,
        "room_id": "!room:there", "sender": "@user0:there", "type": "m.room.message",
        "content": { "msgtype": "m.text", "body": "A message of some forty characters, say." },
    }))
    .expect("it is canonical JSON");
    hash_and_sign_event("there", &key, &mut event, &rules.redaction).expect("it can be signed");
    let bytes = serde_json::to_vec(&event).expect("it is JSON");
    let of_there = BTreeMap::from([("ed25519:1".to_owned(), Base64::new(key.public_key().to_vec()))]);
    let keys = PublicKeyMap::from([("there".to_owned(), of_there)]);
    measure("incoming_event_parse_and_verify", 30, |_| {
        let received = format::parse(&bytes, &rules).expect("its format is right");
        black_box(hash::verify(received, &rules, &keys).expect("its signature is right"));
    });
}

//! A server in the bench's own process, with rooms on it.

#![allow(dead_code, reason = "each bench uses its part")]

pub mod served;

use std::sync::Arc;

use bytes::Bytes;
use chappe::{
    Server,
    clock::Clock,
    config::Config,
    event::Draft,
    outgoing,
    random::Random,
    room::{
        View, append,
        create::{self, NewRoom, Preset},
    },
    store::RoomNid,
    sync::{Reply, token::Token},
};
use futures_util::TryStreamExt;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId};
use serde_json::{Map, Value, json, value::to_raw_value};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub struct Bench {
    pub runtime: Runtime,
    pub server: Arc<Server>,
    pub directory: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self::open("bench", outgoing::Client::new)
    }

    /// A server of some name, with a way to others.
    pub fn open(name: &str, outgoing: impl FnOnce(&Config) -> outgoing::Client) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::for_tests(name);
        directory.path().clone_into(&mut config.database_path);
        config.memory_budget = Config::new(config.server_name.clone()).memory_budget; // as an administrator has it
        let runtime = Runtime::new().expect("threads can be started");
        let outgoing = outgoing(&config);
        let opened = Server::open_with(config, Clock::System, Random::from_seed(1), outgoing);
        let server = opened.expect("a new database opens");
        Self { runtime, server, directory }
    }

    /// A new public room of user 0.
    pub fn room(&self, version: RoomVersionId) -> BenchRoom<'_> {
        let (nid, room_id) = self.runtime.block_on(found(&self.server, &user(0), version));
        BenchRoom { bench: self, nid, room_id, members: 1 }
    }
}

/// A public room, which grows.
pub struct BenchRoom<'a> {
    pub bench: &'a Bench,
    pub nid: RoomNid,
    pub room_id: OwnedRoomId,
    pub members: usize,
}

impl BenchRoom<'_> {
    pub fn send(&self, sender: &UserId, draft: Draft) -> OwnedEventId {
        self.bench.runtime.block_on(send(&self.bench.server, self.nid, sender, draft))
    }

    /// Users join until the room has this many.
    pub fn grow(&mut self, members: usize) {
        while self.members < members {
            self.join_next();
        }
    }

    pub fn join_next(&mut self) {
        let next = user(self.members);
        self.send(&next, join(&next));
        self.members += 1;
    }

    pub fn with_view<R>(&self, work: impl FnOnce(&View<'_>) -> R) -> R {
        let snapshot = self.bench.server.store.snapshot();
        work(&View::open(&self.bench.server.rooms, &snapshot, &self.room_id).expect("it reads").expect("it is there"))
    }
}

/// A new public room.
pub async fn found(server: &Arc<Server>, creator: &UserId, version: RoomVersionId) -> (RoomNid, OwnedRoomId) {
    let new = NewRoom {
        version,
        preset: Preset::PublicChat,
        is_listed: false,
        alias: None,
        name: Some("A room".to_owned()),
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        initial_state: Vec::new(),
        creation_content: Map::new(),
        power_levels: Map::new(),
        replaces: None,
    };
    let room_id = create::create(server, creator, new).await.expect("a room");
    let snapshot = server.store.snapshot();
    let view = View::open(&server.rooms, &snapshot, &room_id).expect("it reads").expect("it is there");
    (view.nid, room_id)
}

pub async fn send(server: &Arc<Server>, room: RoomNid, sender: &UserId, draft: Draft) -> OwnedEventId {
    append::send(server, room, sender, draft, None).await.expect("it is allowed")
}

pub fn user(n: usize) -> OwnedUserId {
    UserId::parse(format!("@user{n}:bench")).expect("it is a user id")
}

pub fn state(event_type: &str, state_key: &str, content: &Value) -> Draft {
    Draft::state(event_type.into(), state_key, to_raw_value(content).expect("a value is JSON"))
}

pub fn message() -> Draft {
    let content = json!({ "msgtype": "m.text", "body": "A message of some forty characters, say." });
    Draft::message("m.room.message".into(), to_raw_value(&content).expect("a value is JSON"))
}

/// `user`'s join, under some name.
pub fn join(user: &UserId) -> Draft {
    state("m.room.member", user.as_str(), &json!({ "membership": "join", "displayname": user.localpart() }))
}

/// All of an answer.
pub fn whole(runtime: &Runtime, reply: Reply) -> Bytes {
    match reply {
        Reply::Whole(answer) => answer,
        Reply::Begun(pieces) => {
            let pieces: Vec<Bytes> = runtime.block_on(pieces.into_stream().try_collect()).expect("it comes to its end");
            pieces.concat().into()
        }
    }
}

/// Where the next answer of `/sync` begins.
pub fn next_batch(answer: &[u8]) -> Token {
    let token = answer.strip_prefix(b"{\"next_batch\":\"").and_then(|rest| rest.split(|&byte| byte == b'"').next());
    let token = token.and_then(|token| str::from_utf8(token).ok()).and_then(|token| token.parse().ok());
    token.expect("it begins with a token")
}

/// The numbers in an environment variable, with commas between them.
pub fn numbers(variable: &str, default: &str) -> Vec<usize> {
    let numbers = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    numbers.split(',').map(|number| number.trim().parse().expect("it holds numbers")).collect()
}

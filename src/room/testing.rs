//! Rooms for tests: a server of its own, in a directory of its own, with one room of alice's.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId, events::StateEventType};
use serde_json::{Value, json, value::to_raw_value};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    View, append, founding, local_event,
    show::Reader,
    tables::{RoomIds, UserRoom, UserRooms},
};
use crate::{
    Server,
    clock::Clock,
    config::Config,
    error::Result,
    event::{Draft, rules},
    random::Random,
    store::{Error, RoomNid, RoomPos, Transaction},
    user::tables::{AccountData, AccountDatum},
};

/// When the clock of a test begins, in milliseconds since the Unix epoch.
pub const START_MS: u64 = 1_800_000_000_000;

pub struct TestRoom {
    pub server: Arc<Server>,
    pub nid: RoomNid,
    runtime: Runtime,
    _directory: TempDir,
}

pub fn user(localpart: &str) -> OwnedUserId {
    UserId::parse(format!("@{localpart}:chappe.test")).unwrap()
}

impl TestRoom {
    /// A room that anybody may join.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::for_tests("chappe.test");
        config.database_path = directory.path().join("data");
        let server = Server::open(config, Clock::manual(START_MS), Random::from_seed(1)).unwrap();
        let runtime = Runtime::new().unwrap();
        let nid = runtime.block_on(found(&server));
        let room = Self { server, nid, runtime, _directory: directory };
        room.member("alice", "alice", "join");
        room.state("alice", "m.room.join_rules", "", &json!({ "join_rule": "public" }));
        room
    }

    pub fn message(&self, sender: &str, body: &str) -> OwnedEventId {
        let content = to_raw_value(&json!({ "body": body })).unwrap();
        self.send(sender, Draft::message("m.room.message".into(), content)).unwrap()
    }

    pub fn state(&self, sender: &str, event_type: &str, state_key: &str, content: &Value) -> OwnedEventId {
        let draft = Draft::state(StateEventType::from(event_type), state_key, to_raw_value(content).unwrap());
        self.send(sender, draft).unwrap()
    }

    pub fn visibility(&self, visibility: &str) -> OwnedEventId {
        self.state("alice", "m.room.history_visibility", "", &json!({ "history_visibility": visibility }))
    }

    /// What `sender` makes of the membership of `of`.
    pub fn member(&self, sender: &str, of: &str, membership: &str) -> OwnedEventId {
        self.state(sender, "m.room.member", user(of).as_str(), &json!({ "membership": membership }))
    }

    /// Sends an event, a second after the last one.
    pub fn send(&self, sender: &str, draft: Draft) -> Result<OwnedEventId> {
        self.server.clock.advance(Duration::from_secs(1));
        self.runtime.block_on(append::send(&self.server, self.nid, &user(sender), draft, None))
    }

    /// Makes an event of a user of another server part of the room, as if that server had sent it.
    pub fn receive(&self, sender: &UserId, draft: Draft) -> OwnedEventId {
        self.receive_at(None, sender, draft)
    }

    /// As [`Self::receive`], of a server that knows of nothing that came after `last`.
    pub fn receive_after(&self, last: &EventId, sender: &UserId, draft: Draft) -> OwnedEventId {
        self.receive_at(Some(last), sender, draft)
    }

    fn receive_at(&self, last: Option<&EventId>, sender: &UserId, draft: Draft) -> OwnedEventId {
        self.server.clock.advance(Duration::from_secs(1));
        let event = {
            let snapshot = self.server.store.snapshot();
            let mut view = View::of(&self.server.rooms, &snapshot, self.nid).unwrap();
            if let Some(last) = last {
                view.room.forward_extremities = vec![view.event_nid(last).unwrap().unwrap()];
            }
            local_event::make_next(&self.server, &view, sender, draft).unwrap()
        };
        let event_id = event.pdu().event_id.clone();
        let (_, verdict) = self.runtime.block_on(append::append(&self.server, self.nid, event)).unwrap();
        assert_eq!(verdict, append::Verdict::Accepted);
        event_id
    }

    /// What a user of another server makes of his own membership.
    pub fn receive_member(&self, user: &UserId, membership: &str) -> OwnedEventId {
        let content = to_raw_value(&json!({ "membership": membership })).unwrap();
        self.receive(user, Draft::state(StateEventType::RoomMember, user.as_str(), content))
    }

    pub fn block_on<R>(&self, future: impl Future<Output = R>) -> R {
        self.runtime.block_on(future)
    }

    pub fn room_id(&self) -> OwnedRoomId {
        self.read("alice", |reader, _| reader.view().room_id().to_owned())
    }

    pub fn forget(&self, localpart: &str) {
        let (nid, user) = (self.nid, user(localpart));
        self.change(move |tx| {
            let row = tx.get::<UserRooms>(&(&user, nid)).unwrap().unwrap();
            tx.put::<UserRooms>(&(&user, nid), &UserRoom { is_forgotten: true, ..row });
        });
    }

    pub fn ignore(&self, localpart: &str, ignored: &str) {
        let content = json!({ "ignored_users": { user(ignored): {} } }).to_string();
        let user = user(localpart);
        self.change(move |tx| {
            let datum = AccountDatum { changed: tx.pos(), content };
            tx.put::<AccountData>(&(&user, RoomNid(0), "m.ignored_user_list"), &datum);
        });
    }

    /// Changes the database beside the room.
    pub fn change(&self, change: impl FnOnce(&mut Transaction<'_>) + Send + 'static) {
        let commit = self.server.store.commit_blocking(|tx| {
            change(tx);
            Ok::<_, Error>(())
        });
        commit.unwrap();
    }

    /// What `work` says, with a user as reader.
    pub fn read<R>(&self, localpart: &str, work: impl FnOnce(&Reader<'_, '_>, RoomPos) -> R) -> R {
        let newest = self.server.store.durable_pos().into();
        let snapshot = self.server.store.snapshot();
        let view = View::of(&self.server.rooms, &snapshot, self.nid).unwrap();
        let user = user(localpart);
        work(&Reader::open(&view, &user, None, self.server.clock.now_ms()).unwrap(), newest)
    }
}

async fn found(server: &Arc<Server>) -> RoomNid {
    let version = RoomVersionId::V12;
    let content = to_raw_value(&json!({ "room_version": version })).unwrap();
    let place = local_event::Place {
        room_id: None,
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        depth: 1,
        hashes: HashMap::new(),
    };
    let draft = Draft::state(StateEventType::RoomCreate, "", content);
    let create = local_event::make(server, rules::rules(&version).unwrap(), &user("alice"), draft, &place).unwrap();
    let room_id = create.pdu().room_id.clone();
    founding::found(server, version, vec![create], |_, _| Ok(())).await.unwrap();
    server.store.snapshot().get::<RoomIds>(&&*room_id).unwrap().unwrap()
}

//! Events for tests: a key, and a forge that makes real, signed events of any room version.

use std::collections::{BTreeMap, HashMap};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId, owned_room_id,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    server_name,
    signatures::{Ed25519KeyPair, PublicKeyMap},
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    Context, Draft, FormatError, Verified,
    build::{self, Legacy},
    hash::reference_sha256,
    rules::rules,
};

/// The server of every forged event, and the version of its key.
pub const SERVER: &str = "domain";

/// The key of the specification's test vectors.
///
/// Source: <https://spec.matrix.org/v1.19/appendices/#signing-key>.
pub fn key() -> Ed25519KeyPair {
    let seed: Base64 = Base64::parse("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    // The fixed start of a PKCS#8 document for Ed25519; the 32 bytes of the seed are all that follows.
    let mut document = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    document.extend(seed.as_bytes());
    Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap()
}

/// The public half of [`key`], as `hash::verify` takes it.
pub fn public_keys() -> PublicKeyMap {
    let public = Base64::new(key().public_key().to_vec());
    BTreeMap::from([(SERVER.to_owned(), BTreeMap::from([("ed25519:1".to_owned(), public)]))])
}

pub fn user(localpart: &str) -> OwnedUserId {
    UserId::parse(format!("@{localpart}:{SERVER}")).unwrap()
}

pub fn draft(event_type: &str, state_key: Option<&str>, content: &Value) -> Draft {
    Draft {
        state_key: state_key.map(str::to_owned),
        ..Draft::message(event_type.into(), to_raw_value(content).unwrap())
    }
}

/// Makes the events of one room.
pub struct Forge {
    pub version: RoomVersionId,
    pub rules: &'static RoomVersionRules,
    /// `None` before the create event of a version 12 room.
    pub room_id: Option<OwnedRoomId>,
    key: Ed25519KeyPair,
    hashes: HashMap<OwnedEventId, String>,
    made: usize,
}

impl Forge {
    pub fn new(version: RoomVersionId) -> Self {
        let rules = rules(&version).unwrap();
        let names_itself = rules.authorization.room_create_event_id_as_room_id;
        let room_id = (!names_itself).then(|| owned_room_id!("!room:domain"));
        Self { version, rules, room_id, key: key(), hashes: HashMap::new(), made: 0 }
    }

    /// The create event, by `creator`; the room has its id from here on.
    pub fn create(&mut self, creator: &str) -> Verified {
        let content = json!({ "room_version": self.version, "creator": user(creator) });
        let event = self.event(creator, draft("m.room.create", Some(""), &content), &[], &[]);
        self.room_id = Some(event.pdu().room_id.clone());
        event
    }

    pub fn member(
        &mut self,
        sender: &str,
        of: &str,
        membership: &str,
        prev: &[&Verified],
        auth: &[&Verified],
    ) -> Verified {
        let content = json!({ "membership": membership });
        self.event(sender, draft("m.room.member", Some(user(of).as_str()), &content), prev, auth)
    }

    /// An event one deeper than the deepest of `prev`.
    pub fn event(&mut self, sender: &str, draft: Draft, prev: &[&Verified], auth: &[&Verified]) -> Verified {
        self.try_event(sender, draft, prev, auth).unwrap()
    }

    pub fn try_event(
        &mut self,
        sender: &str,
        draft: Draft,
        prev: &[&Verified],
        auth: &[&Verified],
    ) -> Result<Verified, FormatError> {
        let ids = |events: &[&Verified]| events.iter().map(|event| event.pdu().event_id.clone()).collect::<Vec<_>>();
        self.made += 1;
        let localpart = format!("event{}", self.made);
        let event = build::build(
            draft,
            &Context {
                rules: self.rules,
                room_id: self.room_id.as_deref(),
                sender: &user(sender),
                prev_events: &ids(prev),
                auth_events: &ids(auth),
                depth: prev.iter().map(|event| event.pdu().depth).max().unwrap_or(0) + 1,
                origin_server_ts: MilliSecondsSinceUnixEpoch(1_700_000_000_000_u64.try_into().unwrap()),
                server_name: server_name!("domain"),
                key: &self.key,
                legacy: Some(Legacy { localpart: &localpart, hashes: &self.hashes }),
            },
        )?;
        let hash = reference_sha256(event.json(), self.rules).unwrap();
        self.hashes.insert(event.pdu().event_id.clone(), hash);
        Ok(event)
    }
}

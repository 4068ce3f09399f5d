//! What a user sends to a room that he is in.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{
    CanonicalJsonObject, ID_MAX_BYTES, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomAliasId, RoomId, UserId,
    api::error::ErrorKind, events::StateEventType,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Membership, View, aliases,
    append::{self, Step, TransactionKey},
    membership, partial, power_levels, redact, relations, relationships, remote,
    view::membership_in,
};
use crate::{
    Server,
    error::{Error, Result},
    event::Draft,
    federation::inviting,
    store::RoomNid,
    user::{account, moderation, session::Caller},
};

/// How long a member event for somebody else that was asked for some time ago waits for the members of its room to be
/// known. Source: our choice.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends an event that is no state. The same transaction of the same device again is answered with the same event.
///
/// Errors: `M_FORBIDDEN`, `M_DUPLICATE_ANNOTATION`, `M_BAD_JSON`, `M_TOO_LARGE`, `M_INVALID_PARAM` for a reply to an event
/// that is not in the room; for redactions those of [`redact::redact`].
///
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid>
pub async fn message(
    server: &Arc<Server>,
    caller: &Caller,
    room_id: &RoomId,
    event_type: String,
    content: Box<RawValue>,
    txn_id: &str,
) -> Result<OwnedEventId> {
    message_with(server, caller, room_id, event_type, content, txn_id, Options::default()).await
}

/// What may be asked of an event beside what it says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// When an application service says that it happened.
    pub at: Option<MilliSecondsSinceUnixEpoch>,
    /// For how long it is to be sticky, in milliseconds.
    pub sticky_ms: Option<u32>,
}

impl Options {
    fn of(self, draft: Draft) -> Draft {
        Draft { origin_server_ts: self.at, sticky_ms: self.sticky_ms, ..draft }
    }
}

/// As [`message`].
pub async fn message_with(
    server: &Arc<Server>,
    caller: &Caller,
    room_id: &RoomId,
    event_type: String,
    content: Box<RawValue>,
    txn_id: &str,
    options: Options,
) -> Result<OwnedEventId> {
    let room = membership::known(server, room_id)?;
    let key = transaction(caller, format!("send/{event_type}"), txn_id)?;
    let sender = caller.user_id.clone();
    append::act(server, room, &caller.user_id, Some(key), move |_, view| {
        let draft = message_draft(view, &sender, event_type, content)?;
        Ok(Step::Send(options.of(draft)))
    })
    .await
}

fn message_draft(view: &View<'_>, sender: &UserId, event_type: String, content: Box<RawValue>) -> Result<Draft> {
    membership::check_in_room(view, sender)?;
    if event_type == "m.room.redaction" {
        redact::check(view, sender, &redact::target_in(&content)?)?;
    }
    check_annotation(view, sender, &event_type, &content)?;
    check_thread(view, &content)?;
    relationships::check(view, sender, content.get())?;
    Ok(Draft::message(event_type, content))
}

/// Sends an event, of state if it has a key, that a user asked for some time ago, once for each `key`.
///
/// Errors: those of [`message`] and [`state`], and `M_USER_LOCKED`.
pub(super) async fn later(
    server: &Arc<Server>,
    sender: &UserId,
    room: RoomNid,
    asked: Asked,
    key: TransactionKey,
) -> Result<OwnedEventId> {
    // No token of his is looked at any more: his account may have been locked meanwhile.
    let account = account::get(&server.store.snapshot(), sender)?;
    account.as_ref().map_or(Ok(()), moderation::check_unlocked)?;
    let Asked { event_type, state_key, content, options } = asked;
    let Some(state_key) = state_key else {
        let user = sender.to_owned();
        return append::act(server, room, sender, Some(key), move |_, view| {
            Ok(Step::Send(options.of(message_draft(view, &user, event_type, content)?)))
        })
        .await;
    };
    let event_type = StateEventType::from(event_type);
    if event_type == StateEventType::RoomMember && state_key != sender.as_str() {
        // Nobody waits for the answer; and what has begun after that goes on.
        let is_whole = tokio::time::timeout(PATIENCE, partial::until_whole_for(server, sender, room)).await;
        is_whole.unwrap_or_else(|_| Err(Error::forbidden("The members of this room are not known yet")))?;
    }
    set_state(server, sender, room, (event_type, state_key), content, options, Some(key)).await
}

/// An event that a user asked for some time ago.
pub(super) struct Asked {
    pub event_type: String,
    pub state_key: Option<String>,
    pub content: Box<RawValue>,
    pub options: Options,
}

/// What a device asks for with a transaction id; `M_INVALID_PARAM` if that is longer than ids of other kinds are.
pub(super) fn transaction(caller: &Caller, scope: String, txn_id: &str) -> Result<TransactionKey> {
    if txn_id.len() > ID_MAX_BYTES {
        return Err(Error::invalid_param(format!("A transaction id has at most {ID_MAX_BYTES} bytes")));
    }
    Ok(TransactionKey { device_id: caller.device_id.clone(), scope, txn_id: txn_id.to_owned() })
}

fn check_annotation(view: &View<'_>, sender: &UserId, event_type: &str, content: &RawValue) -> Result<()> {
    match relations::same_annotation(view.snapshot, view.nid, sender, event_type, content.get())? {
        Some(_) => {
            let message = "You have annotated that event with the same before";
            Err(Error::refused(ErrorKind::DuplicateAnnotation, message))
        }
        None => Ok(()),
    }
}

/// A thread can't begin with an event that itself relates to another.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#validation-of-mthread-relationships>
fn check_thread(view: &View<'_>, content: &RawValue) -> Result<()> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        rel_type: String,
        event_id: OwnedEventId,
    }
    let Ok(Content { relates_to }) = serde_json::from_str(content.get()) else { return Ok(()) };
    if relates_to.rel_type == "m.thread"
        && view.event_by_id(&relates_to.event_id)?.is_some_and(|root| root.relation.is_some())
    {
        return Err(Error::refused(ErrorKind::Unknown, "A thread can't begin with an event that relates to another"));
    }
    Ok(())
}

/// Sets one entry of the room's state. Where it is as wanted already, by the same sender, no new event is made.
///
/// Errors: `M_FORBIDDEN`, `M_BAD_JSON`, `M_TOO_LARGE`; for `m.room.canonical_alias` also `M_BAD_ALIAS` and
/// `M_INVALID_PARAM`, for `m.room.member` those of its own calls.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey>
pub async fn state(
    server: &Arc<Server>,
    sender: &UserId,
    room_id: &RoomId,
    event_type: StateEventType,
    state_key: String,
    content: Box<RawValue>,
) -> Result<OwnedEventId> {
    state_with(server, sender, room_id, event_type, state_key, content, Options::default()).await
}

/// As [`state`].
pub async fn state_with(
    server: &Arc<Server>,
    sender: &UserId,
    room_id: &RoomId,
    event_type: StateEventType,
    state_key: String,
    content: Box<RawValue>,
    options: Options,
) -> Result<OwnedEventId> {
    let room = membership::known(server, room_id)?;
    if event_type == StateEventType::RoomMember && state_key != sender.as_str() {
        // What the other one is to the room may not be known yet.
        partial::until_whole_for(server, sender, room).await?;
    }
    set_state(server, sender, room, (event_type, state_key), content, options, None).await
}

/// Sets one entry of the state, once what must be known of others for that is.
async fn set_state(
    server: &Arc<Server>,
    sender: &UserId,
    room: RoomNid,
    (event_type, state_key): (StateEventType, String),
    content: Box<RawValue>,
    options: Options,
    key: Option<TransactionKey>,
) -> Result<OwnedEventId> {
    if event_type == StateEventType::RoomMember
        && let Some((target, content)) = membership::invited_elsewhere(server, &state_key, &content)
    {
        return inviting::invite(server, sender, &target, room, content).await;
    }
    let elsewhere = match event_type == StateEventType::RoomCanonicalAlias && state_key.is_empty() {
        true => aliases::confirmed_elsewhere(server, sender, room, &content).await?,
        false => BTreeSet::new(),
    };
    let user = sender.to_owned();
    append::act(server, room, sender, key, move |server, view| {
        let draft = state_draft(server, view, &user, event_type, state_key, content, &elsewhere)?;
        state_step(view, &user, options.of(draft))
    })
    .await
}

fn state_draft(
    server: &Server,
    view: &View<'_>,
    sender: &UserId,
    event_type: StateEventType,
    state_key: String,
    content: Box<RawValue>,
    elsewhere: &BTreeSet<OwnedRoomAliasId>,
) -> Result<Draft> {
    // By his own member event somebody comes in, knocks or declines.
    let is_his_own = event_type == StateEventType::RoomMember && state_key == sender.as_str();
    if !is_his_own || membership_in(content.get()) != Some(Membership::Leave) && !knows_who_may_come(view)? {
        membership::check_in_room(view, sender)?;
    }
    match event_type {
        StateEventType::RoomMember => membership::by_state(server, view, sender, &state_key, &content),
        _ => {
            check_state(view, &event_type, &state_key, &content, elsewhere)?;
            relationships::check(view, sender, content.get())?;
            Ok(Draft::state(event_type, state_key, content))
        }
    }
}

/// Whether somebody can come into a room, or knock, without another server being asked, as only the calls for that do.
fn knows_who_may_come(view: &View<'_>) -> Result<bool> {
    Ok(remote::is_resident(view)? && !partial::is_partial(view.snapshot, view.nid)?)
}

fn state_step(view: &View<'_>, sender: &UserId, draft: Draft) -> Result<Step> {
    // What is sticky shall be told anew.
    let same = if draft.sticky_ms.is_none() { same_state(view, sender, &draft)? } else { None };
    Ok(match same {
        Some(event_id) => Step::Done(event_id),
        None => Step::Send(draft),
    })
}

/// What is known to be wrong before the rules of the room are asked: they would only say that it is forbidden.
fn check_state(
    view: &View<'_>,
    event_type: &StateEventType,
    state_key: &str,
    content: &RawValue,
    elsewhere: &BTreeSet<OwnedRoomAliasId>,
) -> Result<()> {
    match event_type {
        StateEventType::RoomCreate => Err(Error::invalid_param("A room is created once, and by /createRoom")),
        StateEventType::RoomCanonicalAlias if state_key.is_empty() => {
            aliases::check_canonical(view, content, elsewhere)
        }
        StateEventType::RoomPowerLevels => check_power_levels(view, content),
        // Who may redact what is asked where redactions are sent; the rules of the room ask less.
        other if other.to_string() == "m.room.redaction" => Err(Error::invalid_param("A redaction is no state")),
        _ => Ok(()),
    }
}

/// Since room version 12 creators have no power level that could be named.
fn check_power_levels(view: &View<'_>, content: &RawValue) -> Result<()> {
    #[derive(Deserialize)]
    struct Content {
        users: Map<String, Value>,
    }
    let Ok(Content { users }) = serde_json::from_str(content.get()) else { return Ok(()) };
    let creators = power_levels(view)?.rules.privileged_creators;
    match creators.iter().flatten().find(|creator| users.contains_key(creator.as_str())) {
        Some(creator) => Err(Error::bad_json(format!("{creator} created the room and can have no power level"))),
        None => Ok(()),
    }
}

/// The event that made the state what `draft` wants it to be, if `sender`, who is in the room, sent that one too.
fn same_state(view: &View<'_>, sender: &UserId, draft: &Draft) -> Result<Option<OwnedEventId>> {
    let (state, event_type) = (view.current_state(), StateEventType::from(draft.event_type.as_str()));
    let state_key = draft.state_key.as_deref().unwrap_or_default();
    let Some(current) = view.state_pdu(state, &event_type, state_key)? else { return Ok(None) };
    if current.sender != sender || view.membership(state, sender)? != Some(Membership::Join) {
        return Ok(None);
    }
    let parse = |content: &RawValue| serde_json::from_str::<CanonicalJsonObject>(content.get()).ok();
    let is_same = parse(&current.content).is_some_and(|content| Some(content) == parse(&draft.content));
    Ok(is_same.then(|| current.event_id.clone()))
}

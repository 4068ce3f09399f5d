//! Events as one reader sees them: in the format asked for, with what depends on who reads, and when.

use std::{
    borrow::Cow,
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
};

use ruma::{
    DeviceId, OwnedEventId, OwnedUserId, UserId,
    events::{AnyStrippedStateEvent, StateEventType},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    Membership, View,
    aggregations::{self, Budget},
    delayed, invited,
    read::Found,
    sticky,
    tables::EventTransactions,
    timeline::Entry,
    visibility::{Sight, unreadable},
};
use crate::{
    error::{Error, Result},
    event::{
        StateRoot, StoredEvent,
        client_form::{self, Unsigned},
        redact,
    },
    store::EventNid,
    user::{erasure, ignored::Ignored},
};

/// From how many bytes on the redactions and the replaced state that are shown with an answer's events have no content.
/// What is smaller than `FREE_BYTES` is not counted: that of all members of a large room may be shown.
const MAX_BESIDE_BYTES: usize = 4 << 20;
const FREE_BYTES: usize = 1_000;

/// What an event is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For clients, with the room's id.
    WithRoomId,
    /// For clients, where the room is known from the context.
    WithoutRoomId,
    /// As servers send it to each other, which a client may ask for.
    Federation,
}

/// One of our users who reads a room on a device, at a moment.
pub struct Reader<'v, 's> {
    pub sight: Sight<'v, 's>,
    /// `None` for whoever reads on no device.
    device_id: Option<&'v DeviceId>,
    now_ms: u64,
    known_erased: RefCell<HashMap<OwnedUserId, bool>>,
    ignored: OnceCell<Ignored>,
    is_bundling: Cell<bool>,
    budget: Budget,
    beside_left: Cell<usize>,
}

/// The state event that another one took the place of.
struct Replaced {
    event_id: OwnedEventId,
    sender: OwnedUserId,
    /// `None` if the reader may not see it, or was shown too much already.
    content: Option<Box<RawValue>>,
}

/// What other events an event is shown with.
#[derive(Clone, Copy, Default)]
struct Beside<'b> {
    redacted_because: Option<&'b RawValue>,
    relations: Option<&'b RawValue>,
}

impl<'v, 's> Reader<'v, 's> {
    /// `now_ms`: milliseconds since the Unix epoch.
    pub fn open(view: &'v View<'s>, user_id: &'v UserId, device_id: Option<&'v DeviceId>, now_ms: u64) -> Result<Self> {
        Ok(Self::by(Sight::of(view, user_id)?, device_id, now_ms))
    }

    /// As [`Self::open`], for whoever sees the room like this.
    pub fn by(sight: Sight<'v, 's>, device_id: Option<&'v DeviceId>, now_ms: u64) -> Self {
        Self {
            sight,
            device_id,
            now_ms,
            known_erased: RefCell::default(),
            ignored: OnceCell::new(),
            is_bundling: Cell::new(true),
            budget: Budget::default(),
            beside_left: Cell::new(MAX_BESIDE_BYTES),
        }
    }

    /// Whether the events that are shown from now on come with the aggregations of what relates to them, which they do
    /// unless this says something else.
    pub fn set_bundling(&self, is_bundling: bool) {
        self.is_bundling.set(is_bundling);
    }

    /// Whom the reader ignores.
    pub fn ignored(&self) -> Result<&Ignored> {
        match self.ignored.get() {
            Some(known) => Ok(known),
            None => {
                let ignored = Ignored::load(self.view().snapshot, self.sight.user_id)?;
                Ok(self.ignored.get_or_init(|| ignored))
            }
        }
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub fn view(&self) -> &'v View<'s> {
        self.sight.view
    }

    /// `event`, which the reader may see, as he sees it.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#definition-clientevent>
    pub fn show(&self, nid: EventNid, event: &StoredEvent, format: Format) -> Result<Box<RawValue>> {
        let mut json = Vec::with_capacity(event.common.len() + 300);
        self.write(&mut json, nid, event, format)?;
        raw_value(json)
    }

    /// As [`Self::show`], appended to `out`, which costs no more than the copying.
    pub fn write(&self, out: &mut Vec<u8>, nid: EventNid, event: &StoredEvent, format: Format) -> Result<()> {
        let redaction = event.redacted_by.map(|nid| self.show_redaction(EventNid(nid), format)).transpose()?;
        let relations = self.relations(event, format)?;
        let beside = Beside { redacted_because: redaction.as_deref(), relations: relations.as_deref() };
        self.write_with(out, nid, event, beside, format)
    }

    /// What a redaction would leave of `event`, and what relates to it.
    pub fn show_without_content(&self, nid: EventNid, event: &StoredEvent, format: Format) -> Result<Box<RawValue>> {
        let mut json = Vec::new();
        let relations = self.relations(event, format)?;
        let beside = Beside { redacted_because: None, relations: relations.as_deref() };
        self.write_with(&mut json, nid, &without_content(self.view(), event)?, beside, format)?;
        raw_value(json)
    }

    fn relations(&self, event: &StoredEvent, format: Format) -> Result<Option<Box<RawValue>>> {
        let has_place = self.is_bundling.get() && format != Format::Federation; // which has no `unsigned`
        if has_place { aggregations::bundle(self, event, format) } else { Ok(None) }
    }

    /// The content of `event`, which the reader may see.
    pub fn content(&self, event: &StoredEvent) -> Result<Box<RawValue>> {
        let event = self.without_erased(event)?;
        Ok(event.view().content().map_err(unreadable)?.to_owned())
    }

    /// Whether the reader, who may see `event`, is shown nothing of what it says: its sender had his account erased.
    pub fn hides_content(&self, event: &StoredEvent) -> Result<bool> {
        Ok(matches!(self.without_erased(event)?, Cow::Owned(_)))
    }

    /// As [`Self::show`], in the type that ruma has for the event.
    pub fn raw<T>(&self, nid: EventNid, event: &StoredEvent, format: Format) -> Result<Raw<T>> {
        self.show(nid, event, format).map(Raw::from_json)
    }

    /// Entries of the timeline in their client format.
    pub fn raw_entries<T>(&self, entries: &[Entry]) -> Result<Vec<Raw<T>>> {
        entries.iter().map(|entry| self.raw(entry.nid, &entry.event, Format::WithRoomId)).collect()
    }

    /// State events in their client format.
    pub fn raw_events<T>(&self, events: &[Found]) -> Result<Vec<Raw<T>>> {
        events.iter().map(|(nid, event)| self.raw(*nid, event, Format::WithRoomId)).collect()
    }

    fn write_with(
        &self,
        out: &mut Vec<u8>,
        nid: EventNid,
        event: &StoredEvent,
        beside: Beside<'_>,
        format: Format,
    ) -> Result<()> {
        let view = self.view();
        let membership = self.sight.membership_at(event)?;
        let event = self.without_erased_at(event, membership)?;
        let room_id = match format {
            Format::WithRoomId => Some(view.room_id()),
            Format::WithoutRoomId => None,
            Format::Federation => {
                out.extend(event.view().federation_json(view.room_id(), view.rules));
                return Ok(());
            }
        };
        let (transaction_id, delay_id) = self.sent_by(nid, &event)?;
        let replaced = self.replaced(&event)?;
        let membership = membership.map(Membership::to_state);
        let sticky_end_ms = sticky::end_ms(view, nid, &event, self.now_ms)?;
        let unsigned = Unsigned {
            age: Some(i64::try_from(self.now_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(event.origin_server_ts)),
            transaction_id: transaction_id.as_deref(),
            delay_id: delay_id.as_deref(),
            prev_content: replaced.as_ref().and_then(|replaced| replaced.content.as_deref()),
            prev_sender: replaced
                .as_ref()
                .filter(|replaced| replaced.content.is_some())
                .map(|replaced| &*replaced.sender),
            replaces_state: replaced.as_ref().map(|replaced| &*replaced.event_id),
            redacted_because: beside.redacted_because,
            membership: membership.as_ref().map(AsRef::as_ref),
            sticky_ms: sticky_end_ms.map(|end_ms| end_ms.saturating_sub(self.now_ms)),
            relations: beside.relations,
        };
        client_form::write(out, &event.view(), room_id, &unsigned).map_err(unreadable)
    }

    /// The redaction of an event, for the event's `unsigned`. That of a redaction that is itself redacted does not show
    /// its own: such chains could be of any length. A redaction that the reader may not see is shown without its reason,
    /// since clients tell redacted events by this field.
    fn show_redaction(&self, nid: EventNid, format: Format) -> Result<Box<RawValue>> {
        let redaction = self.view().event(nid)?;
        let mut json = Vec::with_capacity(redaction.common.len() + 300);
        if self.beside_left.get() > 0 && self.sight.may_see(nid, &redaction)? {
            self.write_with(&mut json, nid, &redaction, Beside::default(), format)?;
            self.take_beside(json.len());
        } else {
            self.write_with(&mut json, nid, &without_content(self.view(), &redaction)?, Beside::default(), format)?;
        }
        raw_value(json)
    }

    fn take_beside(&self, bytes: usize) {
        if bytes >= FREE_BYTES {
            self.beside_left.set(self.beside_left.get().saturating_sub(bytes));
        }
    }

    /// The event itself, or what a redaction would leave of it, if its sender had his account erased and the reader was
    /// not in the room when it was sent.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>
    fn without_erased<'e>(&self, event: &'e StoredEvent) -> Result<Cow<'e, StoredEvent>> {
        self.without_erased_at(event, self.sight.membership_at(event)?)
    }

    /// As [`Self::without_erased`], where the reader's membership at the event is known.
    fn without_erased_at<'e>(
        &self,
        event: &'e StoredEvent,
        membership: Option<Membership>,
    ) -> Result<Cow<'e, StoredEvent>> {
        if membership == Some(Membership::Join) || !self.is_erased(&event.sender)? {
            return Ok(Cow::Borrowed(event));
        }
        Ok(Cow::Owned(without_content(self.view(), event)?))
    }

    fn is_erased(&self, sender: &UserId) -> Result<bool> {
        if sender.server_name() != self.sight.user_id.server_name() {
            return Ok(false); // only our users have accounts here
        }
        if let Some(known) = self.known_erased.borrow().get(sender) {
            return Ok(*known);
        }
        let is_erased = erasure::is_erased(self.view().snapshot, sender)?;
        self.known_erased.borrow_mut().insert(sender.to_owned(), is_erased);
        Ok(is_erased)
    }

    /// The transaction id that this very device sent the event with, and the delay id under which the user had it sent.
    fn sent_by(&self, nid: EventNid, event: &StoredEvent) -> Result<(Option<String>, Option<String>)> {
        let Some(device_id) = self.device_id.filter(|_| event.sender == self.sight.user_id) else {
            return Ok((None, None));
        };
        let sent = self.view().snapshot.get::<EventTransactions>(&(self.view().nid, nid))?;
        Ok(match sent {
            Some(sent) if delayed::is_delay_id(&sent) => (None, Some(sent.txn_id)),
            Some(sent) if sent.device_id == device_id => (Some(sent.txn_id), None),
            _ => (None, None),
        })
    }

    fn replaced(&self, event: &StoredEvent) -> Result<Option<Replaced>> {
        let Some(nid) = event.replaces.map(EventNid) else { return Ok(None) };
        let replaced = self.view().event(nid)?;
        // Of an invite from a room that we were not in then we know no place, but it was shown to who was invited.
        let is_his_own = replaced.flags.outlier
            && replaced.event_type == "m.room.member"
            && replaced.state_key.as_deref() == Some(self.sight.user_id.as_str());
        let is_shown = self.beside_left.get() > 0 && (is_his_own || self.sight.may_see(nid, &replaced)?);
        let content = if is_shown { Some(self.content(&replaced)?) } else { None };
        self.take_beside(content.as_ref().map_or(0, |content| content.get().len()));
        Ok(Some(Replaced { event_id: replaced.event_id, sender: replaced.sender, content }))
    }
}

fn raw_value(json: Vec<u8>) -> Result<Box<RawValue>> {
    let json = String::from_utf8(json).map_err(Error::internal)?;
    RawValue::from_string(json).map_err(Error::internal)
}

/// What a redaction would leave of an event.
pub(super) fn without_content(view: &View<'_>, event: &StoredEvent) -> Result<StoredEvent> {
    let redacted = redact::redact_stored(&event.view(), view.room_id(), view.rules, 0).map_err(unreadable)?;
    Ok(StoredEvent { redacted_by: event.redacted_by, ..redacted })
}

/// What somebody who is invited, or knocks, is shown of the room: a few events of the state that his `member_event` was
/// part of, in the stripped form; where we do not know that state, what another server told of it.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
pub fn stripped_state(view: &View<'_>, member_event: EventNid) -> Result<Vec<Raw<AnyStrippedStateEvent>>> {
    let member = view.event(member_event)?;
    let strip = |event: &StoredEvent| client_form::stripped(&event.view()).map(Raw::from_json).map_err(unreadable);
    if let (None, Some(user)) = (member.state_after, member.state_key.as_deref()) {
        let user = <&UserId>::try_from(user).map_err(|e| Error::internal(format!("{user} has a membership: {e}")))?;
        let mut told: Vec<_> = invited::stripped_state_of(view, user)?.into_iter().map(Raw::from_json).collect();
        told.push(strip(&member)?);
        return Ok(told);
    }
    let inviter = (member.state_key.as_deref() != Some(member.sender.as_str())).then_some(&*member.sender);
    let mut events = member.state_after.map_or(Ok(Vec::new()), |state| telling_events(view, state, inviter))?;
    events.push(member);
    events.iter().map(strip).collect()
}

/// What other servers are told of a room with an invite or a knock: the same few events of `state`, whole, so that they
/// can check them.
pub fn telling_pdus(view: &View<'_>, state: StateRoot, inviter: Option<&UserId>) -> Result<Vec<Box<RawValue>>> {
    let whole = |event: StoredEvent| raw_value(event.view().federation_json(view.room_id(), view.rules));
    telling_events(view, state, inviter)?.into_iter().map(whole).collect()
}

/// The events of a state by which somebody who is not in the room may recognize it.
fn telling_events(view: &View<'_>, state: StateRoot, inviter: Option<&UserId>) -> Result<Vec<StoredEvent>> {
    const TYPES: [StateEventType; 7] = [
        StateEventType::RoomCreate,
        StateEventType::RoomName,
        StateEventType::RoomAvatar,
        StateEventType::RoomTopic,
        StateEventType::RoomJoinRules,
        StateEventType::RoomCanonicalAlias,
        StateEventType::RoomEncryption,
    ];
    let mut events = Vec::with_capacity(TYPES.len() + 2);
    for event_type in TYPES {
        events.extend(view.state_event(state, &event_type, "")?);
    }
    // Who invites: the name and picture that a client shows with the invitation.
    if let Some(inviter) = inviter {
        events.extend(view.state_event(state, &StateEventType::RoomMember, inviter.as_str())?);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use ruma::EventId;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        event::Draft,
        room::{
            history,
            tables::EventTransaction,
            testing::{START_MS, TestRoom, user},
        },
        user::tables::{Account, Accounts, Deactivated},
    };

    fn shown(room: &TestRoom, reader: &str, event: &EventId) -> Value {
        room.read(reader, |reader, _| {
            let (nid, event) = history::visible(reader, event).unwrap().unwrap();
            serde_json::from_str(reader.show(nid, &event, Format::WithRoomId).unwrap().get()).unwrap()
        })
    }

    fn topic(room: &TestRoom, topic: &str) -> OwnedEventId {
        room.state("alice", "m.room.topic", "", &json!({ "topic": topic }))
    }

    fn redact(room: &TestRoom, target: &EventId, reason: &str) -> OwnedEventId {
        room.send("alice", Draft::redaction(target.to_owned(), Some(reason))).unwrap()
    }

    fn erased() -> Account {
        Account {
            password_hash: None,
            is_admin: false,
            user_type: None,
            created_at_ms: START_MS,
            accepted_terms: std::collections::BTreeMap::new(),
            deactivated: Some(Deactivated { at_ms: START_MS, is_erased: true }),
            is_locked: false,
            is_suspended: false,
            is_guest: false,
        }
    }

    #[test]
    fn a_state_event_shows_what_it_replaced() {
        let room = TestRoom::new();
        let (old, new) = (topic(&room, "old"), topic(&room, "new"));
        let shown_old = shown(&room, "alice", &old);
        assert_eq!(shown_old["unsigned"], json!({ "age": 1_000, "membership": "join" }));
        assert_eq!(shown_old["origin_server_ts"], START_MS + 3_000);
        let unsigned = &shown(&room, "alice", &new)["unsigned"];
        assert_eq!(unsigned["prev_content"], json!({ "topic": "old" }));
        assert_eq!(unsigned["replaces_state"], old.as_str());
    }

    #[test]
    fn what_was_replaced_is_shown_as_it_is_now_and_only_to_whom_may_see_it() {
        let room = TestRoom::new();
        room.visibility("joined");
        let old = topic(&room, "old");
        room.member("bob", "bob", "join");
        let new = topic(&room, "new");
        let unsigned = &shown(&room, "bob", &new)["unsigned"];
        assert_eq!((unsigned.get("prev_content"), &unsigned["replaces_state"]), (None, &json!(old)));
        assert_eq!(shown(&room, "alice", &new)["unsigned"]["prev_content"], json!({ "topic": "old" }));
        redact(&room, &old, "secret");
        assert_eq!(shown(&room, "alice", &new)["unsigned"]["prev_content"], json!({}));
    }

    #[test]
    fn a_redacted_event_shows_its_redaction_and_no_more_of_a_chain_of_them() {
        let room = TestRoom::new();
        let message = room.message("alice", "secret");
        let redaction = redact(&room, &message, "why");
        let of_redaction = redact(&room, &redaction, "why not");
        redact(&room, &of_redaction, "and so on");
        let shown_message = shown(&room, "alice", &message);
        assert_eq!(shown_message["content"], json!({}));
        let because = &shown_message["unsigned"]["redacted_because"];
        assert_eq!((&because["event_id"], &because["redacts"]), (&json!(redaction), &json!(message)));
        assert_eq!(because["content"], json!({ "redacts": message }), "its reason was redacted too");
        assert_eq!(because["unsigned"].get("redacted_because"), None);
        assert_eq!(
            shown(&room, "alice", &redaction)["unsigned"]["redacted_because"]["event_id"],
            of_redaction.as_str()
        );
    }

    #[test]
    fn who_may_not_see_a_redaction_learns_that_it_was_and_not_why() {
        let room = TestRoom::new();
        room.member("bob", "bob", "join");
        let message = room.message("alice", "secret");
        room.member("bob", "bob", "leave");
        let redaction = redact(&room, &message, "between us");
        let because = |reader| shown(&room, reader, &message)["unsigned"]["redacted_because"].clone();
        assert_eq!(because("alice")["content"]["reason"], "between us");
        assert_eq!(because("bob")["event_id"], redaction.as_str());
        assert_eq!(because("bob")["content"], json!({ "redacts": message }));
    }

    #[test]
    fn after_much_of_them_redactions_and_replaced_state_are_shown_without_their_content() {
        let room = TestRoom::new();
        let long = "x".repeat(FREE_BYTES);
        let message = room.message("alice", "secret");
        redact(&room, &message, &long);
        let old = topic(&room, &long);
        let new = topic(&room, "new");
        room.read("alice", |reader, _| {
            let unsigned = |event: &EventId| {
                let (nid, event) = history::visible(reader, event).unwrap().unwrap();
                let shown = reader.show(nid, &event, Format::WithRoomId).unwrap();
                serde_json::from_str::<Value>(shown.get()).unwrap()["unsigned"].clone()
            };
            assert_eq!(unsigned(&message)["redacted_because"]["content"]["reason"], *long);
            let left = reader.beside_left.get();
            assert_eq!(unsigned(&new)["prev_content"], json!({ "topic": long }));
            assert!(reader.beside_left.get() < left && left < MAX_BESIDE_BYTES);
            reader.beside_left.set(0);
            assert_eq!(unsigned(&message)["redacted_because"]["content"], json!({ "redacts": message }));
            let of_new = unsigned(&new);
            assert_eq!((of_new.get("prev_content"), &of_new["replaces_state"]), (None, &json!(old)));
        });
    }

    #[test]
    fn a_transaction_id_is_shown_to_the_device_that_gave_it() {
        let room = TestRoom::new();
        room.member("bob", "bob", "join");
        let message = room.message("alice", "hi");
        let (nid, device_id) = (room.nid, ruma::owned_device_id!("PHONE"));
        let event = room.read("alice", |reader, _| reader.view().event_nid(&message).unwrap().unwrap());
        let sent = EventTransaction { device_id, txn_id: "m1".to_owned() };
        room.change(move |tx| tx.put::<EventTransactions>(&(nid, event), &sent));
        let transaction_id = |by: &str, device: Option<&str>| {
            let (snapshot, user) = (room.server.store.snapshot(), user(by));
            let view = View::of(&room.server.rooms, &snapshot, room.nid).unwrap();
            let reader = Reader::open(&view, &user, device.map(Into::into), START_MS).unwrap();
            let shown = reader.show(event, &view.event(event).unwrap(), Format::WithoutRoomId).unwrap();
            let shown: Value = serde_json::from_str(shown.get()).unwrap();
            assert_eq!(shown.get("room_id"), None);
            shown["unsigned"]["transaction_id"].as_str().map(str::to_owned)
        };
        assert_eq!(transaction_id("alice", Some("PHONE")).as_deref(), Some("m1"));
        assert_eq!(transaction_id("alice", Some("LAPTOP")), None);
        assert_eq!(transaction_id("alice", None), None);
        assert_eq!(transaction_id("bob", Some("PHONE")), None);
    }

    #[test]
    fn each_event_tells_the_readers_membership_at_it() {
        let room = TestRoom::new();
        let before = room.message("alice", "before");
        let invited = room.member("alice", "bob", "invite");
        let joins = room.member("bob", "bob", "join");
        let membership = |event: &EventId| shown(&room, "bob", event)["unsigned"]["membership"].clone();
        assert_eq!(
            (membership(&before), membership(&invited), membership(&joins)),
            (json!("leave"), json!("invite"), json!("join"))
        );
    }

    #[test]
    fn what_an_erased_user_said_is_for_those_who_were_there() {
        let room = TestRoom::new();
        room.member("mallory", "mallory", "join");
        room.member("bob", "bob", "join");
        let message = room.message("mallory", "regretted");
        room.member("carol", "carol", "join");
        let content = |reader: &str| shown(&room, reader, &message)["content"].clone();
        assert_eq!(content("carol"), json!({ "body": "regretted" }));
        room.change(|tx| tx.put::<Accounts>(&&*user("mallory"), &erased()));
        assert_eq!(content("carol"), json!({}));
        assert_eq!(content("bob"), json!({ "body": "regretted" }));
        assert_eq!(shown(&room, "carol", &message)["unsigned"].get("redacted_because"), None);
    }

    #[test]
    fn the_federation_form_is_the_signed_event() {
        let room = TestRoom::new();
        let message = room.message("alice", "hi");
        room.read("alice", |reader, _| {
            let (nid, event) = history::visible(reader, &message).unwrap().unwrap();
            let shown: Value =
                serde_json::from_str(reader.show(nid, &event, Format::Federation).unwrap().get()).unwrap();
            assert!(shown["signatures"]["chappe.test"].is_object() && shown.get("event_id").is_none(), "{shown}");
        });
    }

    #[test]
    fn an_invitation_shows_a_few_events_of_the_state_it_was_made_in() {
        let room = TestRoom::new();
        topic(&room, "then");
        room.state("alice", "com.example.secret", "", &json!({ "x": 1 }));
        let invite = room.member("alice", "bob", "invite");
        topic(&room, "later");
        let stripped: Vec<Value> = room.read("bob", |reader, _| {
            let nid = reader.view().event_nid(&invite).unwrap().unwrap();
            let state = stripped_state(reader.view(), nid).unwrap();
            state.iter().map(|event| serde_json::from_str(event.json().get()).unwrap()).collect()
        });
        let types: Vec<_> = stripped.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["m.room.create", "m.room.topic", "m.room.join_rules", "m.room.member", "m.room.member"]);
        assert_eq!(stripped[1]["content"], json!({ "topic": "then" }));
        assert_eq!(
            (&stripped[3]["state_key"], &stripped[4]["state_key"]),
            (&json!(user("alice")), &json!(user("bob")))
        );
        assert_eq!(stripped[0]["origin_server_ts"], START_MS);
        for event in &stripped[1..] {
            assert_eq!(
                event.as_object().unwrap().keys().collect::<Vec<_>>(),
                ["content", "sender", "state_key", "type"]
            );
        }
    }
}

//! One answer: what it is made from, and its parts in order.

use std::sync::Arc;

use ruma::{RoomId, UserId, api::client::filter::EventFormat};
use tracing::warn;

use super::{
    account_data,
    changes::{Changes, Room},
    device_lists, invited, joined,
    json::Object,
    left, presence, profiles,
    request::Request,
    stream::{HandOn, PIECE_BYTES},
    to_device,
    token::Token,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{StoredEvent, fields::Fields},
    room::{View, show, visibility::Sight},
    store::{EventNid, Group, RoomNid, Snapshot, StreamPos, Table},
    user::ignored::Ignored,
};

/// A finished answer.
#[derive(Debug)]
pub struct Answer {
    /// JSON, or what is left of it after the pieces that were handed on.
    pub body: Vec<u8>,
    pub next: Token,
    /// The client should hear of this at once.
    pub has_news: bool,
}

/// What one answer is made from: who asks for what, and the snapshot that is read.
pub struct Context<'s> {
    pub server: &'s Server,
    pub snapshot: &'s Snapshot<'s>,
    pub request: &'s Request,
    /// The last change that the client has seen; `None` if it has seen nothing.
    pub since: Option<StreamPos>,
    /// The newest change that the snapshot shows, and with it the answer.
    pub now: StreamPos,
    /// As `since` and `now`, for what is in memory only.
    pub ephemeral_since: Option<u64>,
    pub ephemeral_now: u64,
    pub ignored: Arc<Ignored>,
    /// Whether rooms are told whose members are not all known yet.
    pub tells_partial: bool,
    fields: Option<Fields>,
}

impl<'s> Context<'s> {
    pub fn open(server: &'s Server, snapshot: &'s Snapshot<'s>, request: &'s Request) -> Result<Self> {
        let now = snapshot.pos()?;
        // A token from a future that was lost, with a restored backup: the client starts anew.
        let since = request.since.filter(|since| !server.store.is_lost(since.pos, now));
        if request.since.is_some_and(|since| since.pos > now) {
            tell_of_future(server, &request.user_id);
        }
        let ephemeral_now = server.ephemeral.newest(); // before looking: what changes meanwhile is told next time
        // One from the future, after the clock was set back, has seen nothing of this run.
        let seen = |since: u64| if since > ephemeral_now { 0 } else { since };
        Ok(Self {
            server,
            snapshot,
            request,
            since: since.map(|since| since.pos),
            now,
            ephemeral_since: since.map(|since| seen(since.ephemeral)),
            ephemeral_now,
            ignored: server.unread.ignored(server, snapshot, &request.user_id)?,
            tells_partial: request.is_lazy(),
            fields: request.fields(),
        })
    }

    pub fn user_id(&self) -> &'s UserId {
        &self.request.user_id
    }

    /// Whether it is worth to look for rows of a group that changed after `pos`.
    pub fn may_have_changed<T: Table>(&self, group: Group, pos: StreamPos) -> bool {
        self.server.store.recent().may_have_changed::<T>(group, pos)
    }

    /// Whether rows of a group changed after `pos`; `None` where memory does not tell.
    pub fn has_changed<T: Table>(&self, group: Group, pos: StreamPos) -> Option<bool> {
        self.server.store.recent().has_changed::<T>(group, pos)
    }

    pub fn view(&self, room: RoomNid) -> Result<View<'s>> {
        Ok(View::of(&self.server.rooms, self.snapshot, room)?)
    }

    /// How the client reads a room.
    pub fn reader<'v>(&'v self, view: &'v View<'s>) -> Result<show::Reader<'v, 's>> {
        let rooms = self.server.user_rooms.get(&self.server.store, self.snapshot, self.user_id())?;
        let sight = Sight::by(view, self.user_id(), rooms.get(view.nid))?;
        Ok(show::Reader::by(sight, Some(&self.request.device_id), self.server.clock.now_ms()))
    }

    /// Writes an event of a room in the form that the client asked for.
    pub fn write_event(
        &self,
        out: &mut Vec<u8>,
        reader: &show::Reader<'_, '_>,
        nid: EventNid,
        event: &StoredEvent,
    ) -> Result<()> {
        let format = match self.request.filter.event_format {
            EventFormat::Federation => show::Format::Federation,
            _ => show::Format::WithoutRoomId,
        };
        let Some(fields) = &self.fields else { return reader.write(out, nid, event, format) };
        let selected = fields.select(&reader.show(nid, event, format)?).map_err(Error::internal)?;
        out.extend_from_slice(selected.get().as_bytes());
        Ok(())
    }
}

/// Anybody can make such a token up, so nothing is done but to tell who knows what happened, once.
fn tell_of_future(server: &Server, user_id: &UserId) {
    server.told_of_future.call_once(|| {
        warn!(
            %user_id,
            "a client brings a token that is newer than the database; if that was put back to an earlier state, as with the \
             snapshot of a disk, stop the server and run `chappe restored`"
        );
    });
}

/// Writes what is new in one room; `false` if that is nothing.
type WriteRoom = fn(&Context<'_>, &View<'_>, &Room, &mut Vec<u8>, &mut HandOn<'_>) -> Result<bool>;

impl Answer {
    /// That nothing happened since then.
    pub fn nothing(since: Token) -> Self {
        let mut body = Vec::new();
        let mut answer = Object::begin(&mut body);
        answer.member("next_batch", &since.to_string());
        answer.end();
        Self { body, next: since, has_news: false }
    }

    /// Reads and writes what is new. `hand_on` may take what is written so far, where that is much.
    pub fn assemble(server: &Server, request: &Request, hand_on: &mut HandOn<'_>) -> Result<Self> {
        for room in server.typing.expire() {
            server.wakers.room(server, room);
        }
        let snapshot = server.store.snapshot();
        let context = Context::open(server, &snapshot, request)?;
        let since = request.since.filter(|_| context.since.is_some());
        let messages = to_device::read(&context, since.map(|since| since.to_device), to_device::MAX_MESSAGES)?;
        let next = Token { to_device: messages.next, ..Token::new(context.now, context.ephemeral_now) };
        let mut body = Vec::with_capacity(4 << 10);
        let has_news = context.write(&mut body, next, &messages, hand_on)?;
        Ok(Self { body, next, has_news })
    }
}

impl Context<'_> {
    /// Writes the answer; whether there is anything in it that the client waits for.
    fn write(
        &self,
        out: &mut Vec<u8>,
        next: Token,
        messages: &to_device::Messages,
        hand_on: &mut HandOn<'_>,
    ) -> Result<bool> {
        let changes = Changes::find(self)?;
        let mut answer = Object::begin(out);
        answer.member("next_batch", &next.to_string());
        let mut has_news = answer.member_if("account_data", |out| account_data::write_global(self, out))?;
        has_news |= answer.member_if("to_device", |out| Ok::<_, Error>(messages.write(out)))?;
        has_news |= answer.member_if("device_lists", |out| device_lists::write(self, &changes, out))?;
        has_news |= answer.member_if("presence", |out| presence::write(self, &changes, out))?;
        has_news |= answer.member_if(profiles::USERS, |out| profiles::write(self, &changes, out))?;
        let (user, device) = (self.user_id(), &*self.request.device_id);
        let (store, left) = (&self.server.store, &self.server.left_keys);
        answer.member("device_one_time_keys_count", &*left.counts(store, self.snapshot, user, device)?);
        answer.member("device_unused_fallback_key_types", &*left.fallback_types(store, self.snapshot, user, device)?);
        has_news |= answer.member_if("rooms", |out| self.write_rooms(&changes, out, hand_on))?;
        answer.end();
        Ok(has_news)
    }

    fn write_rooms(&self, changes: &Changes, out: &mut Vec<u8>, hand_on: &mut HandOn<'_>) -> Result<bool> {
        let sections: [(&str, &[Room], WriteRoom); 4] = [
            ("join", &changes.joined, joined::write),
            ("invite", &changes.invited, |context, view, room, out, _| {
                invited::write_invited(context, view, room, out)
            }),
            ("knock", &changes.knocked, |_, view, room, out, _| invited::write_knocked(view, room, out)),
            ("leave", &changes.left, left::write),
        ];
        let mut any = false;
        let mut object = Object::begin(out);
        for (key, rooms, write) in sections {
            any |= object.member_if(key, |out| self.write_section(rooms, write, out, hand_on))?;
        }
        object.end();
        Ok(any)
    }

    fn write_section(
        &self,
        rooms: &[Room],
        write: WriteRoom,
        out: &mut Vec<u8>,
        hand_on: &mut HandOn<'_>,
    ) -> Result<bool> {
        let mut section = Object::begin(out);
        for room in rooms {
            let view = self.view(room.nid)?;
            if self.wants(view.room_id()) {
                section.member_if(view.room_id().as_str(), |out| write(self, &view, room, out, hand_on))?;
            }
            if section.buffer().len() >= PIECE_BYTES {
                hand_on(section.buffer())?;
            }
        }
        let any = !section.is_empty();
        section.end();
        Ok(any)
    }

    /// Whether the filter wants anything of a room.
    fn wants(&self, room_id: &RoomId) -> bool {
        let filter = &self.request.filter.room;
        filter.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|room| room == room_id))
            && !filter.not_rooms.iter().any(|room| room == room_id)
    }
}

//! One answer: the rooms that the client wants and that have news, and the extensions.

use std::collections::{HashMap, HashSet};

use super::{
    connection::{Change, Known},
    extensions::{self, Parts, Seen},
    filters,
    lists::{self, Selected, Wanted},
    pos::{self, Pos},
    request::Asked,
    required_state::RequiredState,
    room::{Room, Told},
    tables::{Covered, Sent},
};
use crate::{
    Server,
    error::{Error, Result},
    room::{
        partial::tables::Completions,
        tables::{ReceiptChanges, Timeline},
    },
    store::{Group, RoomNid, StreamPos},
    sync::{account_data, answer::Context, changes, json::Object, token::Token},
};

/// An answer that needs only its position.
#[derive(Debug)]
pub struct Answer {
    /// A JSON object without the position.
    pub body: Vec<u8>,
    /// There is something in it that the client waits for.
    pub has_news: bool,
    pub moment: Token,
    /// What the client knew, and what it knows from now on.
    pub known: Known,
    pub change: Change,
}

/// What is new in rooms beside their events, for a client that knows something.
struct News {
    /// The user's data of them.
    with_data: HashSet<RoomNid>,
    /// Who types in them.
    typing: HashSet<RoomNid>,
    /// Which of them are direct chats.
    has_new_direct: bool,
}

impl News {
    fn read(context: &Context<'_>) -> Result<Self> {
        let typing = match context.since {
            Some(_) => context.server.typing.changed_rooms(context.ephemeral_since.unwrap_or_default()),
            None => Vec::new(),
        };
        let data = account_data::Changed::find(context)?;
        Ok(Self {
            has_new_direct: filters::has_new_direct_rooms(&data),
            with_data: data.rooms,
            typing: typing.into_iter().collect(),
        })
    }
}

impl Answer {
    /// Reads and writes what is new. `M_UNKNOWN_POS` if the client must begin anew.
    pub fn assemble(server: &Server, asked: &Asked) -> Result<Self> {
        for room in server.typing.expire() {
            server.wakers.room(server, room);
        }
        let snapshot = server.store.snapshot();
        let mut context = Context::open(server, &snapshot, &asked.base)?;
        context.tells_partial = true;
        if asked.pos.is_some() && context.since.is_none() {
            return Err(pos::unknown()); // from a future that was lost, with a restored backup
        }
        let known = Known::load(server, &snapshot, asked)?;
        let selected = lists::select(&context, asked, &known)?;
        let mut answer = Self {
            body: Vec::with_capacity(4 << 10),
            has_news: false,
            moment: Token::new(context.now, context.ephemeral_now),
            change: Change { extensions: extensions::extended(asked), ..Change::default() },
            known,
        };
        let news = News::read(&context)?;
        answer.write(&context, asked, &selected, &news)?;
        answer.note_away(&context, &selected, &news)?;
        Ok(answer)
    }

    /// The body of one in which nothing happened since then.
    pub fn nothing(pos: Pos) -> Vec<u8> {
        let mut body = Vec::new();
        let mut object = Object::begin(&mut body);
        object.member("pos", &pos.to_string());
        for key in ["lists", "rooms", "extensions"] {
            Object::begin(object.key(key)).end();
        }
        object.end();
        body
    }

    /// The whole body.
    pub fn into_body(self, pos: &str) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.body.len() + pos.len() + 16);
        let mut object = Object::begin(&mut body);
        object.member("pos", pos);
        let rest = self.body.get(1..).unwrap_or_default(); // without its brace; there always are `extensions`
        object.buffer().push(b',');
        object.buffer().extend_from_slice(rest);
        body
    }

    fn write(&mut self, context: &Context<'_>, asked: &Asked, selected: &Selected, news: &News) -> Result<()> {
        let mut body = std::mem::take(&mut self.body);
        let mut object = Object::begin(&mut body);
        if let Some(txn_id) = &asked.txn_id {
            object.member("txn_id", txn_id);
        }
        if !selected.counts.is_empty() {
            let mut lists = Object::begin(object.key("lists"));
            for (name, count) in &selected.counts {
                let mut list = Object::begin(lists.key(name));
                list.member("count", count);
                list.end();
            }
            lists.end();
        }
        let before = self.known.extensions();
        let parts = Parts::of(asked, before, self.change.extensions);
        let mut seen = Vec::with_capacity(selected.rooms.len());
        let rooms = |out: &mut Vec<u8>| self.write_rooms(context, &parts, selected, news, &mut seen, out);
        self.has_news = object.member_if("rooms", rooms)?;
        let extensions = object.key("extensions");
        self.has_news |= extensions::write(context, asked, before, &parts, selected, &seen, extensions)?;
        object.end();
        self.body = body;
        Ok(())
    }

    fn write_rooms<'a>(
        &mut self,
        context: &Context<'_>,
        parts: &Parts<'_>,
        selected: &'a Selected,
        news: &News,
        seen: &mut Vec<Seen<'a>>,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        let nothing = RequiredState::default();
        let mut required: HashMap<u64, RequiredState> = HashMap::new();
        let mut any = false;
        let mut rooms = Object::begin(out);
        for (nid, wanted) in self.rooms_to_look_at(context, parts, selected, news) {
            let view = context.view(nid)?;
            let sent = self.known.sent(nid);
            let had = match sent.map(|sent| sent.required) {
                Some(had) => required.entry(had).or_insert_with(|| self.known.required(had)),
                None => &nothing,
            };
            let is_direct = selected.direct.contains(view.room_id());
            let mut room = Room { wanted, sent, had, since: context.since, is_direct, covered: Covered::default() };
            let has_data = news.with_data.contains(&nid);
            room.covered = parts.covered_by(context, nid, &room, has_data);
            let mut told = Told::default();
            any |= rooms.member_if(view.room_id().as_str(), |out| {
                told = room.write(context, &view, out)?;
                Ok::<_, Error>(told.has_news)
            })?;
            let covered = room.had_covered();
            let mut members = told.members;
            if parts.begin_profiles(covered, wanted) {
                members.extend(room.known_members(context, &view)?);
            }
            seen.push(Seen {
                nid,
                room_id: view.room_id().to_owned(),
                wanted,
                after: room.after(),
                was_away: sent.is_some_and(|sent| sent.until.is_some()),
                has_data,
                covered,
                events: told.events,
                is_expanded: told.is_expanded,
                members,
            });
            if let Some(sent) = told.sent {
                if sent.required == wanted.config.fingerprint {
                    let required = self.change.required.entry(sent.required);
                    required.or_insert_with(|| wanted.config.required.clone());
                }
                self.change.rooms.insert(nid, sent);
            }
        }
        rooms.end();
        Ok(any)
    }

    /// The rooms that may have something to tell: of all others it is certain, without reading, that they have not.
    fn rooms_to_look_at<'a>(
        &self,
        context: &Context<'_>,
        parts: &Parts<'_>,
        selected: &'a Selected,
        news: &News,
    ) -> Vec<(RoomNid, &'a Wanted)> {
        let rooms = selected.rooms.iter().map(|(nid, wanted)| (*nid, wanted));
        let is_extended = self.change.extensions != self.known.extensions();
        // Both are rare, and which rooms are direct chats is known by their ids only.
        let may_be_all = is_extended || news.has_new_direct;
        let Some(since) = context.since.filter(|_| !may_be_all) else { return rooms.collect() };
        let recent = context.server.store.recent();
        let is_quiet = |nid: RoomNid, wanted: &Wanted| {
            let group = Group::of(nid);
            let is_up_to_date =
                |sent: &Sent| sent.is_up_to_date_with(&wanted.config) && !parts.lack(sent.covered, wanted);
            self.known.sent(nid).is_some_and(is_up_to_date)
                && wanted.row.since <= since
                && !news.with_data.contains(&nid)
                && !news.typing.contains(&nid)
                && !recent.may_have_changed::<Timeline>(group, since)
                && !recent.may_have_changed::<ReceiptChanges>(group, since)
                && !recent.may_have_changed::<Completions>(group, since)
        };
        rooms.filter(|(nid, wanted)| !is_quiet(*nid, wanted)).collect()
    }

    /// Notes of the rooms that the client did not want this time, and that had news, that it does not know these.
    fn note_away(&mut self, context: &Context<'_>, selected: &Selected, news: &News) -> Result<()> {
        let Some(since) = context.since else { return Ok(()) };
        let wants_typing = self.change.extensions.typing != 0;
        let with_news = |nid: &RoomNid| news.with_data.contains(nid) || wants_typing && news.typing.contains(nid);
        let direct = news.has_new_direct.then(|| filters::direct_rooms(context)).transpose()?;
        let mut away = Vec::new();
        for (nid, sent) in self.known.rooms() {
            let is_up_to_date = sent.until.is_none() && !selected.rooms.contains_key(&nid);
            if !is_up_to_date {
                continue;
            }
            let is_other_kind = match &direct {
                Some(direct) => sent.is_direct != direct.contains(context.view(nid)?.room_id()),
                None => false,
            };
            if is_other_kind || with_news(&nid) || has_changed(context, nid, since)? {
                away.push((nid, Sent { until: Some(since), ..sent.clone() }));
            }
        }
        self.change.rooms.extend(away);
        Ok(())
    }
}

fn has_changed(context: &Context<'_>, nid: RoomNid, since: StreamPos) -> Result<bool> {
    Ok(changes::has_events(context, nid, since)?
        || changes::has_receipts(context, nid, since)?
        || changes::completed_after(context, nid, since)?.is_some())
}

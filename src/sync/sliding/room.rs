//! What is told of one room.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ruma::{OwnedEventId, OwnedUserId, UserId, api::client::filter::RoomEventFilter, events::StateEventType};
use serde::{Deserialize, Serialize};

use super::{
    lists::Wanted,
    request::RoomConfig,
    required_state::RequiredState,
    tables::{Covered, Sent},
};
use crate::{
    error::{Error, Result},
    event::{StateRoot, StoredEvent},
    push::unread,
    room::{
        Membership, View, receipts,
        show::{self, Reader},
        timeline::Entry,
        visibility::Standing,
    },
    store::{EventNid, RoomPos, StateKeyNid, StreamPos},
    sync::{
        answer::Context,
        changes,
        json::{self, Object, put},
        state::{Log, MEMBER},
        summary,
        timeline::{self, Timeline},
    },
};

/// Of how many members of a room it is remembered that they were told.
const MAX_MEMBERS: usize = 200;

/// What a client knows of a room, and wants to.
pub struct Room<'r> {
    pub wanted: &'r Wanted,
    pub sent: Option<&'r Sent>,
    /// The required state that it was told with.
    pub had: &'r RequiredState,
    /// The moment of the client's last answer; `None` if there was none.
    pub since: Option<StreamPos>,
    pub is_direct: bool,
    /// Of which extensions the client has all, after this answer.
    pub covered: Covered,
}

/// What came of telling.
#[derive(Debug, Default)]
pub struct Told {
    /// Something was written.
    pub has_news: bool,
    /// What the client knows from now on, if that is something else.
    pub sent: Option<Sent>,
    /// The events of the timeline that were told.
    pub events: Vec<OwnedEventId>,
    /// They are more than the client wanted before.
    pub is_expanded: bool,
    /// Where members are loaded lazily, those of whom the client learns.
    pub members: Vec<OwnedUserId>,
}

impl Sent {
    /// Whether it tells all that `config` wants, up to the client's last answer.
    pub fn is_up_to_date_with(&self, config: &RoomConfig) -> bool {
        self.until.is_none() && !self.lacks_of(config)
    }

    fn lacks_of(&self, config: &RoomConfig) -> bool {
        (self.timeline_limit as usize) < config.timeline_limit || self.required != config.fingerprint
    }
}

impl Room<'_> {
    /// Up to where the client has seen the room; `None` if nothing of the user's present or last stay.
    pub fn after(&self) -> Option<StreamPos> {
        let seen = self.sent.zip(self.since).map(|(sent, since)| sent.until.unwrap_or(since));
        let row = &self.wanted.row;
        seen.filter(|seen| match row.membership {
            // Who has just come in gets the room from the start, whatever he knew of it before.
            Membership::Join => row.joined_at.is_some_and(|joined| joined <= *seen),
            _ => true,
        })
    }

    /// Writes the value of the room's key.
    pub fn write(&self, context: &Context<'_>, view: &View<'_>, out: &mut Vec<u8>) -> Result<Told> {
        match self.wanted.row.membership {
            Membership::Join => self.write_joined(context, view, out),
            Membership::Invite | Membership::Knock => self.write_pending(view, out),
            Membership::Leave | Membership::Ban => self.write_left(context, view, out),
        }
    }

    fn write_joined(&self, context: &Context<'_>, view: &View<'_>, out: &mut Vec<u8>) -> Result<Told> {
        let after = self.after();
        if let Some(after) = after
            && !self.wants_more()
            && !changes::has_events(context, view.nid, after)?
            && changes::completed_after(context, view.nid, after)?.is_none()
            && !self.has_read(context, view)?
            && !self.is_other_kind()
        {
            return Ok(Told { sent: self.caught_up(), ..Told::default() });
        }
        let reader = context.reader(view)?;
        self.write_stay(context, &reader, &Stay::up_to_now(context, view), out)
    }

    /// Where members are loaded lazily, those of whom the client learned before: they said something, it asked for them, or the
    /// room is called after them.
    pub fn known_members(&self, context: &Context<'_>, view: &View<'_>) -> Result<Vec<OwnedUserId>> {
        let required = &self.wanted.config.required;
        let Some(sent) = self.sent.filter(|_| required.is_lazy && self.after().is_some()) else {
            return Ok(Vec::new());
        };
        let mut said_something = Vec::with_capacity(sent.members.len());
        for key in &sent.members {
            said_something.push(view.state_key_name(*key)?.state_key);
        }
        let stay = Stay::up_to_now(context, view);
        let appearance = Appearance::read(view, &stay, context.user_id(), true, &Changed::default())?;
        let names = said_something.iter().map(String::as_str).chain(required.members());
        Ok(user_ids(names).chain(appearance.hero_ids()).collect())
    }

    /// What somebody who is invited, or knocks, may know.
    fn write_pending(&self, view: &View<'_>, out: &mut Vec<u8>) -> Result<Told> {
        let row = &self.wanted.row;
        if self.after().is_some_and(|after| row.since <= after) {
            return Ok(Told { sent: self.caught_up(), ..Told::default() });
        }
        let mut room = Object::begin(out);
        room.member("initial", &true);
        room.member("bump_stamp", &row.since);
        room.member("is_dm", &self.is_direct);
        let state = show::stripped_state(view, row.event)?;
        json::list(room.key("invite_state"), &state, |out, event| {
            put(out, event);
            Ok::<_, Error>(())
        })?;
        room.end();
        let sent = Sent { covered: self.covered, is_direct: self.is_direct, ..Sent::default() };
        Ok(Told { has_news: true, sent: Some(sent), ..Told::default() })
    }

    fn write_left(&self, context: &Context<'_>, view: &View<'_>, out: &mut Vec<u8>) -> Result<Told> {
        let row = &self.wanted.row;
        if self.after().is_some_and(|after| row.since <= after) && !self.wants_more() {
            return Ok(Told { sent: self.caught_up(), ..Told::default() });
        }
        let reader = context.reader(view)?;
        match reader.sight.standing {
            Standing::Left(departure) => {
                let stay = Stay { root: departure.state, until: departure.pos, is_over: true };
                self.write_stay(context, &reader, &stay, out)
            }
            Standing::Joined | Standing::Stranger => self.write_last_word(context, &reader, out),
        }
    }

    /// The user's member event alone: he was not in the room when it changed, or has forgotten the room since.
    fn write_last_word(&self, context: &Context<'_>, reader: &Reader<'_, '_>, out: &mut Vec<u8>) -> Result<Told> {
        let row = &self.wanted.row;
        let event = reader.view().event(row.event)?;
        let mut room = Object::begin(out);
        if self.after().is_none() {
            room.member("initial", &true);
        }
        room.member("bump_stamp", &row.since);
        json::list(room.key("required_state"), [&event], |out, event| {
            context.write_event(out, reader, row.event, event)
        })?;
        if self.wanted.config.timeline_limit > 0 {
            json::list(room.key("timeline"), [&event], |out, event| {
                context.write_event(out, reader, row.event, event)
            })?;
            room.member("num_live", &usize::from(self.since.is_some()));
            room.member("limited", &false);
        }
        room.end();
        let sent = Sent { members: Vec::new(), ..self.sent_now(false) };
        Ok(Told { has_news: true, sent: Some(sent), events: vec![event.event_id], ..Told::default() })
    }

    /// Whether the client wants older events or other state than it was told.
    fn wants_more(&self) -> bool {
        self.sent.is_none_or(|sent| sent.lacks_of(&self.wanted.config))
    }

    /// Whether the user has come to call the room a direct chat, or does so no more.
    fn is_other_kind(&self) -> bool {
        self.sent.is_some_and(|sent| sent.is_direct != self.is_direct)
    }

    /// Whether the room was told with other required state, or not at all.
    fn had_other_state(&self) -> bool {
        self.sent.is_none_or(|sent| sent.required != self.wanted.config.fingerprint)
    }

    /// Of which extensions the client had all, up to its last answer.
    pub fn had_covered(&self) -> Covered {
        let covered = self.sent.map(|sent| sent.covered).unwrap_or_default();
        // Where members were loaded lazily, and are no more, it had the profiles of some.
        let wants_all_now = self.had.is_lazy && !self.wanted.config.required.is_lazy;
        Covered { profiles: covered.profiles && !wants_all_now, ..covered }
    }

    /// Whether the user has read something since, so that his counts are others.
    fn has_read(&self, context: &Context<'_>, view: &View<'_>) -> Result<bool> {
        let Some(after) = self.after() else { return Ok(false) };
        if !changes::has_receipts(context, view.nid, after)? {
            return Ok(false);
        }
        let own = receipts::of_user(view.snapshot, view.nid, context.user_id())?;
        Ok(own.iter().any(|receipt| receipt.changed > after))
    }

    /// Without news: the client now knows all up to this answer, if that was not so before.
    fn caught_up(&self) -> Option<Sent> {
        let covered = self.covered;
        let changed = self.sent.filter(|sent| sent.until.is_some() || sent.covered != covered);
        changed.map(|sent| Sent { until: None, covered, ..sent.clone() })
    }

    /// What the client knows after this answer; `members` are to be added.
    fn sent_now(&self, has_gap: bool) -> Sent {
        let limit = u32::try_from(self.wanted.config.timeline_limit).unwrap_or(u32::MAX);
        // As long as nothing is left out, the client has what it was told with the larger limit.
        let before = self.sent.filter(|_| !has_gap && self.after().is_some()).map_or(0, |sent| sent.timeline_limit);
        Sent {
            until: None,
            timeline_limit: limit.max(before),
            required: self.wanted.config.fingerprint,
            members: Vec::new(),
            covered: self.covered,
            is_direct: self.is_direct,
        }
    }
}

/// The time of a user in a room, up to now or to when he left.
struct Stay {
    root: StateRoot,
    until: RoomPos,
    is_over: bool,
}

impl Stay {
    fn up_to_now(context: &Context<'_>, view: &View<'_>) -> Self {
        Self { root: view.current_state(), until: context.now.into(), is_over: false }
    }

    fn until(&self) -> StreamPos {
        StreamPos(u64::try_from(self.until.0).unwrap_or_default())
    }
}

/// What of the state changed that rooms are shown by.
#[derive(Default)]
struct Changed {
    name: bool,
    avatar: bool,
    members: bool,
}

impl Room<'_> {
    fn write_stay(
        &self,
        context: &Context<'_>,
        reader: &Reader<'_, '_>,
        stay: &Stay,
        out: &mut Vec<u8>,
    ) -> Result<Told> {
        let (view, config, row) = (reader.view(), &self.wanted.config, &self.wanted.row);
        let after = self.after();
        let is_initial = after.is_none();
        let is_expanded =
            !is_initial && self.sent.is_some_and(|sent| (sent.timeline_limit as usize) < config.timeline_limit);
        let filter = RoomEventFilter::default();
        let wanted = timeline::Wanted {
            after: after.filter(|_| !is_expanded),
            until: stay.until,
            limit: config.timeline_limit,
            filter: &filter,
        };
        let timeline = Timeline::newest(context, reader, &wanted)?;
        let completed = match after {
            Some(after) => changes::completed_after(context, view.nid, after)?.filter(|pos| *pos <= stay.until()),
            None => None,
        };
        let log = self.log(view, stay, completed)?;
        let has_gap = timeline.is_limited && after.is_none_or(|after| timeline.start > after.into());
        // Who wants no timeline misses nothing of it, so all members who changed are told.
        let lacks_events = has_gap && config.timeline_limit > 0;
        let (mut state, members, mut changed) = self.state(view, &timeline, lacks_events, &log, stay)?;
        changed.members |= completed.is_some();
        let has_events = match after {
            Some(after) if stay.is_over => row.since > after, // and nothing of what happens in the room since
            Some(after) => changes::has_events(context, view.nid, after)?,
            None => true,
        };
        let sent = Sent { members, ..self.sent_now(has_gap) };
        let mut told = Told {
            has_news: is_initial
                || has_events
                || is_expanded
                || completed.is_some()
                || !state.is_empty()
                || !stay.is_over && (self.is_other_kind() || self.has_read(context, view)?),
            sent: Some(sent).filter(|sent| self.sent != Some(sent)),
            events: timeline.events.iter().map(|entry| entry.event.event_id.clone()).collect(),
            is_expanded,
            members: Vec::new(),
        };
        if !told.has_news {
            return Ok(told);
        }
        if stay.is_over {
            add_own_event(view, context.user_id(), row.event, &mut state)?;
        }

        let mut room = Object::begin(out);
        if is_initial {
            room.member("initial", &true);
        }
        let appearance = Appearance::read(view, stay, context.user_id(), is_initial, &changed)?;
        appearance.write(&mut room, is_initial, &changed);
        if config.required.is_lazy {
            let states = state.iter().filter(|(_, event)| event.event_type == MEMBER);
            told.members = user_ids(states.filter_map(|(_, event)| event.state_key.as_deref())).collect();
            told.members.extend(appearance.hero_ids());
        }
        room.member("is_dm", &self.is_direct);
        if !stay.is_over && (is_initial || changed.members) {
            room.member("joined_count", &view.room.joined);
            room.member("invited_count", &view.room.invited);
        }
        if !stay.is_over {
            // Always: clients take them for zero if they are not there.
            let counts = unread::counts(context.server, view, context.user_id(), row, context.now)?.total();
            room.member("notification_count", &counts.notifications);
            room.member("highlight_count", &counts.highlights);
        }
        room.member("bump_stamp", &self.bump_stamp(context, view, stay)?);
        if !state.is_empty() {
            json::list(room.key("required_state"), &state, |out, (nid, event)| {
                context.write_event(out, reader, *nid, event)
            })?;
        }
        if config.timeline_limit > 0 {
            self.write_timeline(context, reader, &timeline, is_expanded, &mut room)?;
        }
        room.end();
        Ok(told)
    }

    /// How the state changed since the client saw it. Of the members who became known at `completed` only those whom it wants.
    /// That is no gap: they were there before, and whoever asks for all members gets these, since that waits until then.
    fn log(&self, view: &View<'_>, stay: &Stay, completed: Option<StreamPos>) -> Result<Log> {
        let Some(after) = self.after() else { return Ok(Log::default()) };
        let mut log = Log::read(view.snapshot, view.nid, after, stay.until())?;
        let required = &self.wanted.config.required;
        if let Some(completed) = completed.filter(|_| !required.has_all_members()) {
            log.forget_members_known_since(view, completed, required.members())?;
        }
        Ok(log)
    }

    fn write_timeline(
        &self,
        context: &Context<'_>,
        reader: &Reader<'_, '_>,
        timeline: &Timeline,
        is_expanded: bool,
        room: &mut Object<'_>,
    ) -> Result<()> {
        timeline.write_events(context, reader, room.key("timeline"))?;
        room.member("prev_batch", &timeline.prev_batch());
        room.member("limited", &timeline.is_limited);
        let is_live = |entry: &&Entry| self.since.is_some_and(|since| entry.pos > since.into());
        room.member("num_live", &timeline.events.iter().rev().take_while(is_live).count());
        if is_expanded {
            room.member("unstable_expanded_timeline", &true);
        }
        Ok(())
    }

    /// The larger, the later something happened that counts. Who is not in the room learns when he left it.
    fn bump_stamp(&self, context: &Context<'_>, view: &View<'_>, stay: &Stay) -> Result<u64> {
        let active = if stay.is_over { RoomPos::MIN } else { context.server.activities.active(context, view)? };
        let since = self.wanted.row.joined_at.filter(|_| !stay.is_over).unwrap_or(self.wanted.row.since);
        // What was said before we knew the room has places below zero.
        Ok(u64::try_from(active.0).ok().filter(|active| *active > 0).unwrap_or(since.0))
    }
}

/// State events to tell, in the order in which the room first had such state.
type State = Vec<(EventNid, StoredEvent)>;

impl Room<'_> {
    /// The state to tell, the members who are told then, and what changed that rooms are shown by.
    fn state(
        &self,
        view: &View<'_>,
        timeline: &Timeline,
        has_gap: bool,
        log: &Log,
        stay: &Stay,
    ) -> Result<(State, Vec<StateKeyNid>, Changed)> {
        let required = &self.wanted.config.required;
        let mut changed = Changed::default();
        let is_initial = self.after().is_none();
        let nothing = RequiredState::default();
        let had = if is_initial { &nothing } else { self.had };
        let mut told =
            if is_initial || self.had_other_state() { required.select(view, stay.root, had)? } else { BTreeMap::new() };
        let known = self.sent.filter(|_| !is_initial).map(|sent| sent.members.clone()).unwrap_or_default();
        let mut members: BTreeSet<StateKeyNid> = known.into_iter().collect();
        for (key, change) in log.ends(stay.until()) {
            let name = view.state_key_name(key)?;
            let is_member = name.event_type == MEMBER;
            match (name.event_type.as_str(), name.state_key.as_str()) {
                ("m.room.name", "") => changed.name = true,
                ("m.room.avatar", "") => changed.avatar = true,
                (MEMBER, _) => changed.members = true,
                _ => {}
            }
            // With a gap, members who say nothing are left for the client to ask for.
            let is_wanted =
                required.wants(&name.event_type, &name.state_key) || is_member && required.is_lazy && !has_gap;
            match change.new {
                Some(event) if is_wanted => {
                    told.insert(key, event);
                    if is_member && required.is_lazy {
                        members.insert(key);
                    }
                }
                _ => drop(members.remove(&key)),
            }
        }
        if required.is_lazy {
            let tries = view.tries();
            for user in shown_users(timeline) {
                let Some(key) = view.state_key_nid(MEMBER, &user)? else { continue };
                // Who is not known yet, in a room that is not whole, is told when he is.
                if !members.contains(&key)
                    && let Some(event) = tries.get(stay.root, key)?
                {
                    members.insert(key);
                    told.insert(key, event);
                }
            }
        }
        let nids: Vec<EventNid> = told.into_values().collect();
        let state = std::iter::zip(nids.iter().copied(), view.events(&nids)?).collect();
        let excess = members.len().saturating_sub(MAX_MEMBERS);
        Ok((state, members.into_iter().skip(excess).collect(), changed))
    }
}

/// Those without whom the timeline can't be shown: who sent its events, and whom its member events are about.
fn shown_users(timeline: &Timeline) -> HashSet<String> {
    let senders = timeline.events.iter().map(|entry| entry.event.sender.to_string());
    let member_events = timeline.events.iter().filter(|entry| entry.event.event_type == MEMBER);
    senders.chain(member_events.filter_map(|entry| entry.event.state_key.clone())).collect()
}

/// What is no user's id is left out: state keys can be anything.
fn user_ids<'t>(texts: impl Iterator<Item = &'t str>) -> impl Iterator<Item = OwnedUserId> {
    texts.filter_map(|text| UserId::parse(text).ok())
}

/// A client must learn that its user is out, whatever state it asked for. It may take a room that comes without this for
/// one that he is in.
fn add_own_event(view: &View<'_>, user: &UserId, nid: EventNid, state: &mut State) -> Result<()> {
    state.retain(|(_, event)| !(event.event_type == MEMBER && event.state_key.as_deref() == Some(user.as_str())));
    state.push((nid, view.event(nid)?));
    Ok(())
}

/// By what a room is shown in a list of rooms.
#[derive(Default)]
struct Appearance {
    name: Option<String>,
    avatar: Option<String>,
    /// `None` if they are not needed, or have not changed.
    heroes: Option<Vec<Hero>>,
}

#[derive(Serialize)]
struct Hero {
    user_id: OwnedUserId,
    #[serde(flatten)]
    profile: Profile,
}

/// What a member event says of its user.
#[derive(Default, Deserialize, Serialize)]
struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

impl Appearance {
    fn read(view: &View<'_>, stay: &Stay, me: &UserId, is_initial: bool, changed: &Changed) -> Result<Self> {
        #[derive(Deserialize)]
        struct Name {
            name: Option<String>,
        }
        #[derive(Deserialize)]
        struct Avatar {
            url: Option<String>,
        }
        if !is_initial && !changed.name && !changed.avatar && !changed.members {
            return Ok(Self::default());
        }
        let name: Option<Name> = view.state_content(stay.root, &StateEventType::RoomName, "")?;
        let name = name.and_then(|name| name.name).filter(|name| !name.is_empty());
        let avatar: Option<Avatar> = view.state_content(stay.root, &StateEventType::RoomAvatar, "")?;
        let avatar = avatar.and_then(|avatar| avatar.url).filter(|url| !url.is_empty());
        let has_heroes = name.is_none() && !stay.is_over;
        let heroes = has_heroes.then(|| heroes(view, me)).transpose()?;
        Ok(Self { name, avatar, heroes })
    }

    /// What was taken away is `null`, where the client might have it.
    fn write(&self, room: &mut Object<'_>, is_initial: bool, changed: &Changed) {
        if changed.name || is_initial && self.name.is_some() {
            room.member("name", &self.name);
        }
        if changed.avatar || is_initial && self.avatar.is_some() {
            room.member("avatar", &self.avatar);
        }
        if let Some(heroes) = &self.heroes {
            room.member("heroes", heroes);
        }
    }

    fn hero_ids(&self) -> impl Iterator<Item = OwnedUserId> {
        self.heroes.iter().flatten().map(|hero| hero.user_id.clone())
    }
}

fn heroes(view: &View<'_>, me: &UserId) -> Result<Vec<Hero>> {
    let hero = |user_id: OwnedUserId| {
        let profile: Option<Profile> =
            view.state_content(view.current_state(), &StateEventType::RoomMember, user_id.as_str())?;
        Ok(Hero { user_id, profile: profile.unwrap_or_default() })
    };
    summary::heroes(view, me)?.into_iter().map(hero).collect()
}

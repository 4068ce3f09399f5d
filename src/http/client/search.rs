//! Searching for events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Router, extract::State};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId,
    api::client::search::search_events::{
        self,
        v3::{Criteria, EventContext, GroupingKey, OrderBy, SearchKeys},
    },
    events::{AnyStateEvent, AnyTimelineEvent},
    serde::Raw,
};
use serde::Serialize;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, json_object},
    },
    room::{
        history,
        read::{self, Profile},
        search::{
            self, Found, Match, Order, Query, Readers,
            index::Field,
            token::{Group, Token},
        },
        show::{Format, Reader},
    },
    store::RoomPos,
    sync::token::TimelineToken,
    user::session::Caller,
};

/// How many results a page has if the client does not say, and at most.
const DEFAULT_LIMIT: usize = 10;
const MAX_LIMIT: usize = 100;

/// How many events are shown on each side of a result at most.
const MAX_CONTEXT: usize = 50;

/// How many bytes the contexts of all results have together: those of later ones have no events.
const CONTEXT_BYTES: usize = 4 << 20;

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<search_events::v3::Request, _, _>(search_events))
}

/// `POST /search`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3search>
async fn search_events(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<search_events::v3::Request>,
) -> Result<Json<Response>> {
    let told = |room_events| Json(Response { search_categories: Categories { room_events } });
    let Some(criteria) = body.search_categories.room_events else { return Ok(told(None)) };
    let wants_context = json_object(&raw)?["search_categories"]["room_events"].get("event_context").is_some();
    let query = query(&criteria, body.next_batch.as_deref())?;
    let wanted = Wanted::new(&criteria, wants_context)?;
    let _permit = server.searches.acquire(&sender.user_id).await?;
    let answer = server.blocking(move |server| answer(server, &sender, &query, &wanted)).await?;
    Ok(told(Some(answer)))
}

fn query(criteria: &Criteria, next_batch: Option<&str>) -> Result<Query> {
    let field = |key: &SearchKeys| match key {
        SearchKeys::ContentBody => Ok(Field::Body),
        SearchKeys::ContentName => Ok(Field::Name),
        SearchKeys::ContentTopic => Ok(Field::Topic),
        other => Err(Error::invalid_param(format!("{other} can't be searched"))),
    };
    let fields = match &criteria.keys {
        Some(keys) => keys.iter().map(field).collect::<Result<_>>()?,
        None => vec![Field::Body, Field::Name, Field::Topic],
    };
    let order = match &criteria.order_by {
        None | Some(OrderBy::Rank) => Order::Rank,
        Some(OrderBy::Recent) => Order::Recent,
        Some(other) => return Err(Error::invalid_param(format!("Results can't be ordered by {other}"))),
    };
    let limit = criteria.filter.limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(Query {
        term: criteria.search_term.clone(),
        fields,
        filter: criteria.filter.clone(),
        order,
        limit: limit.clamp(1, MAX_LIMIT),
        after: next_batch.map(Token::decode).transpose()?,
    })
}

/// What is to be told beside the results.
struct Wanted {
    context: Option<EventContext>,
    state: bool,
    by_room: bool,
    by_sender: bool,
}

impl Wanted {
    fn new(criteria: &Criteria, wants_context: bool) -> Result<Self> {
        let keys: Vec<_> = criteria.groupings.group_by.iter().filter_map(|group| group.key.as_ref()).collect();
        if let Some(other) = keys.iter().find(|key| !matches!(key, GroupingKey::RoomId | GroupingKey::Sender)) {
            return Err(Error::invalid_param(format!("Results can't be grouped by {other}")));
        }
        Ok(Self {
            context: wants_context.then(|| criteria.event_context.clone()),
            state: criteria.include_state == Some(true),
            by_room: keys.contains(&&GroupingKey::RoomId),
            by_sender: keys.contains(&&GroupingKey::Sender),
        })
    }
}

#[derive(Serialize)]
struct Response {
    search_categories: Categories,
}

#[derive(Serialize)]
struct Categories {
    #[serde(skip_serializing_if = "Option::is_none")]
    room_events: Option<RoomEvents>,
}

#[derive(Serialize)]
struct RoomEvents {
    count: usize,
    highlights: BTreeSet<String>,
    results: Vec<SearchResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<BTreeMap<OwnedRoomId, Vec<Raw<AnyStateEvent>>>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<&'static str, BTreeMap<String, GroupResult>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

#[derive(Serialize)]
struct SearchResult {
    rank: f64,
    result: Raw<AnyTimelineEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<ResultContext>,
}

#[derive(Serialize)]
struct ResultContext {
    start: String,
    end: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_info: Option<BTreeMap<OwnedUserId, Profile>>,
    events_before: Vec<Raw<AnyTimelineEvent>>,
    events_after: Vec<Raw<AnyTimelineEvent>>,
}

#[derive(Serialize)]
struct GroupResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    order: usize,
    results: Vec<OwnedEventId>,
}

fn answer(server: &Server, caller: &Caller, query: &Query, wanted: &Wanted) -> Result<RoomEvents> {
    let newest = server.store.durable_pos().into(); // before the snapshot, which then holds all of that
    let snapshot = server.store.snapshot();
    let rooms = search::Rooms::of(server, &snapshot, &caller.user_id, &query.filter)?;
    let readers = rooms.readers(&caller.user_id, &caller.device_id, server.clock.now_ms())?;
    let found = search::find(&readers, newest, query)?;
    let mut context_left = CONTEXT_BYTES;
    let result = |found| result(&readers, newest, found, wanted, &mut context_left);
    let results = found.page.iter().map(result).collect::<Result<_>>()?;
    // A full page may be the last one; the next is then empty, and says so by having no token.
    let is_full = found.page.len() >= query.limit;
    let group = query.after.as_ref().and_then(|after| after.group.clone());
    let next = found.page.last().filter(|_| is_full).map(|last| Token { place: last.place, group });
    Ok(RoomEvents {
        count: found.count,
        groups: groups(&readers, &found, wanted)?,
        state: wanted.state.then(|| states(&readers, &found)).transpose()?,
        highlights: found.words,
        results,
        next_batch: next.map(|token| token.encode()).transpose()?,
    })
}

fn reader<'r, 'v, 's>(readers: &'r Readers<'v, 's>, found: &Match) -> Result<&'r Reader<'v, 's>> {
    readers.get(&found.place.room).ok_or_else(|| Error::internal("a match in a room that was not searched"))
}

fn result(
    readers: &Readers<'_, '_>,
    newest: RoomPos,
    found: &Match,
    wanted: &Wanted,
    context_left: &mut usize,
) -> Result<SearchResult> {
    let reader = reader(readers, found)?;
    let context = |wanted| context(reader, newest, found, wanted, context_left);
    let context = wanted.context.as_ref().map(context).transpose()?;
    let result = reader.raw(found.entry.nid, &found.entry.event, Format::WithRoomId)?;
    Ok(SearchResult { rank: f64::from(found.place.rank) / 1_000.0, result, context })
}

/// `left`: how many bytes contexts may still have.
fn context(
    reader: &Reader<'_, '_>,
    newest: RoomPos,
    found: &Match,
    wanted: &EventContext,
    left: &mut usize,
) -> Result<ResultContext> {
    let most = if *left == 0 { 0 } else { MAX_CONTEXT };
    let limit = |limit| usize::try_from(limit).unwrap_or(usize::MAX).min(most);
    let limits = (limit(wanted.before_limit), limit(wanted.after_limit));
    let beside = history::beside(reader, newest, &found.entry, limits)?;
    let profiles = || {
        let mut entries = vec![found.entry.clone()];
        entries.extend(beside.before.iter().chain(&beside.after).cloned());
        read::profiles_of_senders(reader, &entries)
    };
    let context = ResultContext {
        start: TimelineToken(beside.start).to_string(),
        end: TimelineToken(beside.end).to_string(),
        profile_info: wanted.include_profile.then(profiles).transpose()?,
        events_before: reader.raw_entries(&beside.before)?,
        events_after: reader.raw_entries(&beside.after)?,
    };
    *left = left.saturating_sub(serde_json::to_vec(&context).map_err(Error::internal)?.len());
    Ok(context)
}

/// The state of each room with results, as the reader may read it now.
fn states(readers: &Readers<'_, '_>, found: &Found) -> Result<BTreeMap<OwnedRoomId, Vec<Raw<AnyStateEvent>>>> {
    let mut states = BTreeMap::new();
    for found in &found.page {
        let reader = reader(readers, found)?;
        let view = reader.view();
        if !states.contains_key(view.room_id()) {
            let state = read::all(view, reader.sight.readable_state()?)?;
            states.insert(view.room_id().to_owned(), reader.raw_events(&state)?);
        }
    }
    Ok(states)
}

fn groups(
    readers: &Readers<'_, '_>,
    found: &Found,
    wanted: &Wanted,
) -> Result<BTreeMap<&'static str, BTreeMap<String, GroupResult>>> {
    let mut all = BTreeMap::new();
    if wanted.by_room {
        let mut by_room = BTreeMap::new();
        for found_here in &found.page {
            let room_id = reader(readers, found_here)?.view().room_id().to_owned();
            let is_left = found.left.iter().any(|(_, room)| *room == found_here.place.room);
            add(&mut by_room, room_id.to_string(), found_here, is_left.then_some(Group::Room(room_id)))?;
        }
        all.insert("room_id", by_room);
    }
    if wanted.by_sender {
        let mut by_sender = BTreeMap::new();
        for found_here in &found.page {
            let sender = found_here.entry.event.sender.clone();
            let is_left = found.left.iter().any(|(left, _)| *left == sender);
            add(&mut by_sender, sender.to_string(), found_here, is_left.then_some(Group::Sender(sender)))?;
        }
        all.insert("sender", by_sender);
    }
    Ok(all)
}

/// `goes_on`: the group, if there is more of it than is on the page.
fn add(groups: &mut BTreeMap<String, GroupResult>, key: String, found: &Match, goes_on: Option<Group>) -> Result<()> {
    let order = groups.len();
    let group = groups.entry(key).or_insert_with(|| GroupResult { next_batch: None, order, results: Vec::new() });
    group.results.push(found.entry.event.event_id.clone());
    let token = goes_on.map(|group| Token { place: found.place, group: Some(group) });
    group.next_batch = token.map(|token| token.encode()).transpose()?;
    Ok(())
}

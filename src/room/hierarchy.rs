//! Walking the tree of a space.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#discovering-rooms-within-spaces>

mod children;
mod remote;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    api::{
        client::space::SpaceHierarchyRoomsChunk,
        federation::space::{SpaceHierarchyParentSummary, get_hierarchy},
    },
    events::space::child::HierarchySpaceChildEvent,
    room::{RoomSummary, RoomType},
    serde::Raw,
};
use tokio::time::{Instant, timeout_at};

use self::children::Child;
pub use self::remote::Cache as RemoteCache;
use super::{View, summary};
use crate::{
    Server,
    error::{Error, Result},
    user::expiring::Expiring,
};

/// How many rooms a page has at most, and unless the client wants fewer. Source: our choice, as Synapse has it.
const MAX_PAGE: usize = 50;
/// How deep a walk goes at most. Source: our choice; no agency has a space in a space in a space that often.
const MAX_DEPTH: usize = 10;
/// How many rooms may wait to be looked at in one walk, and after how many no more are waited for.
const MAX_WAITING: usize = 2_000;
const MAX_SEEN: usize = 10_000;
/// How many bytes of what other servers said of those rooms are kept: of the others only their own servers tell.
const MAX_TOLD_BYTES: usize = 1 << 20;
/// How many walks of one user are kept. Each page leaves one, and a client may walk several spaces, or trees of replies, at once.
pub(super) const WALKS_OF_USER: usize = 10;
/// Of how many rooms one page asks other servers, and how long it waits for them. The next page goes on from there.
const MAX_ASKED: usize = 20;
const PATIENCE: Duration = Duration::from_secs(15);
/// Of how many children another server is told more than the link, and how many bytes of links. Source: our choice.
const MAX_TOLD: usize = 50;
const MAX_LINK_BYTES: usize = 4 << 20;

/// Walks that may be gone on with, by the token of their next page.
pub type Walks = Expiring<Arc<Walk>>;

/// Room for the walks of many clients; a client goes on within minutes.
pub fn walks() -> Walks {
    Expiring::new(Duration::from_secs(10 * 60), 200)
}

/// Where a walk has come to.
#[derive(Clone)]
pub struct Walk {
    user_id: OwnedUserId,
    root: OwnedRoomId,
    suggested_only: bool,
    /// As the client gave it.
    asked_depth: Option<u64>,
    waiting: VecDeque<Waiting>,
    seen: HashSet<OwnedRoomId>,
}

/// A room that the walk comes to.
#[derive(Clone)]
struct Waiting {
    room_id: OwnedRoomId,
    depth: usize,
    /// The servers to ask if we do not know the room.
    via: Vec<OwnedServerName>,
    /// What the server of its parent said of it.
    told: Option<Told>,
}

impl Waiting {
    /// Whether its servers could say more than was told: the links of a space, which only a walk that goes on needs.
    fn is_worth_asking(&self, own_name: &ServerName, max_depth: usize) -> bool {
        let told = self.told.as_ref();
        self.via.iter().any(|name| name != own_name)
            && told.is_none_or(|told| is_space(told.room.room_type.as_ref()) && self.depth < max_depth)
    }
}

#[derive(Clone)]
struct Told {
    room: Box<RoomSummary>,
    /// Its length as JSON.
    bytes: usize,
}

impl Told {
    fn new(room: RoomSummary) -> Self {
        let bytes = serde_json::to_string(&room).map_or(usize::MAX, |json| json.len());
        Self { room: Box::new(room), bytes }
    }
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Query {
    pub suggested_only: bool,
    pub max_depth: Option<u64>,
    pub limit: Option<u64>,
    pub from: Option<String>,
}

pub struct Page {
    pub rooms: Vec<SpaceHierarchyRoomsChunk>,
    pub next_batch: Option<String>,
}

/// A part of the tree below a room, parents before their children.
///
/// Errors: `M_FORBIDDEN` for a room that `user` may know nothing of, `M_INVALID_PARAM` for a token that is none, or of
/// another walk.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy>
pub async fn page(server: &Arc<Server>, user: &UserId, room_id: &RoomId, query: Query) -> Result<Page> {
    page_within(server, user, room_id, query, PATIENCE).await
}

/// As [`page`], which waits for other servers so long.
async fn page_within(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    query: Query,
    patience: Duration,
) -> Result<Page> {
    let limit = match query.limit {
        Some(0) => return Err(Error::invalid_param("`limit` must be greater than zero")),
        limit => limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MAX_PAGE).min(MAX_PAGE),
    };
    let mut walk = begin(server, user, room_id, &query)?;
    let mut rooms = Vec::new();
    let (mut asked, mut deadline) = (0, None);
    while rooms.len() < limit {
        let step = server.blocking(move |server| walk_here(server, walk, rooms, limit)).await?;
        (walk, rooms) = (step.walk, step.rooms);
        let Some(away) = step.away else { break };
        let mut found = remote::known(server, &away.room_id, walk.suggested_only);
        if found.is_none() && away.is_worth_asking(server.name(), walk.max_depth()) {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience);
            if asked == MAX_ASKED || deadline <= Instant::now() {
                walk.waiting.push_front(away);
                break;
            }
            asked += 1;
            match timeout_at(deadline, ask(server, user, &away, walk.suggested_only)).await {
                Ok(answer) => found = answer?,
                // A room that had all of the time is given up, or the walk would never come past it.
                Err(_) if asked > 1 => {
                    walk.waiting.push_front(away);
                    break;
                }
                Err(_) => {}
            }
        }
        let user_id = walk.user_id.clone();
        let chunk = server.blocking(move |server| walk_there(server, &user_id, away, found)).await?;
        if let Some((chunk, depth, children)) = chunk {
            walk.wait_for(children, depth);
            rooms.push(chunk);
        }
    }
    if rooms.is_empty() && query.from.is_none() {
        return Err(Error::forbidden("You are not allowed to view this room"));
    }
    let next_batch = (!walk.waiting.is_empty()).then(|| {
        let token = server.random.text(20);
        let is_his = |other: &Arc<Walk>| other.user_id == user;
        server.walks.insert_among(server.clock.now_ms(), &token, Arc::new(walk), WALKS_OF_USER, is_his);
        token
    });
    Ok(Page { rooms, next_batch })
}

/// What the servers of a room say of it. If nobody waits any more it goes on: whoever asks again waits for the same answer, or
/// it is known which server fails.
async fn ask(
    server: &Arc<Server>,
    user: &UserId,
    room: &Waiting,
    suggested_only: bool,
) -> Result<Option<remote::Answer>> {
    let turn = server.remote_spaces.turns.take(user.to_owned()).await;
    let (server, room_id, via) = (Arc::clone(server), room.room_id.clone(), room.via.clone());
    Server::detached(async move {
        let _turn = turn;
        Ok(remote::ask(&server, &room_id, &via, suggested_only).await)
    })
    .await
}

fn begin(server: &Server, user: &UserId, room_id: &RoomId, query: &Query) -> Result<Walk> {
    let Some(token) = &query.from else {
        let via = room_id.server_name().filter(|name| *name != server.name()).map(ToOwned::to_owned);
        let root = Waiting { room_id: room_id.to_owned(), depth: 0, via: via.into_iter().collect(), told: None };
        return Ok(Walk {
            user_id: user.to_owned(),
            root: room_id.to_owned(),
            suggested_only: query.suggested_only,
            asked_depth: query.max_depth,
            seen: HashSet::from([room_id.to_owned()]),
            waiting: VecDeque::from([root]),
        });
    };
    // The token stays good, so that a page whose answer got lost can be asked for again.
    let walk = server.walks.with(server.clock.now_ms(), token, |walk| Arc::clone(walk));
    let walk = walk.filter(|walk| walk.user_id == user && walk.root == room_id);
    let walk = walk.ok_or_else(|| Error::invalid_param("`from` is unknown or too old"))?;
    if walk.suggested_only != query.suggested_only || walk.asked_depth != query.max_depth {
        return Err(Error::invalid_param("suggested_only and max_depth cannot change on paginated requests"));
    }
    Ok((*walk).clone())
}

impl Walk {
    fn max_depth(&self) -> usize {
        self.asked_depth.and_then(|depth| usize::try_from(depth).ok()).unwrap_or(MAX_DEPTH).min(MAX_DEPTH)
    }

    /// Puts the children of a room at `depth` in front of what else waits: the walk goes down before it goes on.
    fn wait_for(&mut self, children: Vec<(Child, Option<RoomSummary>)>, depth: usize) {
        if depth >= self.max_depth() {
            return;
        }
        let told_bytes: usize = self.waiting.iter().filter_map(|waiting| Some(waiting.told.as_ref()?.bytes)).sum();
        let mut bytes_left = MAX_TOLD_BYTES.saturating_sub(told_bytes);
        let mut fresh = Vec::new();
        for (Child { room_id, via, .. }, told) in children {
            // A room that is in several places, or above itself, is told once.
            if self.seen.len() >= MAX_SEEN || !self.seen.insert(room_id.clone()) {
                continue;
            }
            let told = told.map(Told::new).filter(|told| told.bytes <= bytes_left);
            bytes_left -= told.as_ref().map_or(0, |told| told.bytes);
            fresh.push(Waiting { room_id, depth: depth + 1, via, told });
        }
        fresh.into_iter().rev().for_each(|waiting| self.waiting.push_front(waiting));
        self.waiting.truncate(MAX_WAITING);
    }
}

/// How far a walk came without asking others.
struct HereStep {
    walk: Walk,
    rooms: Vec<SpaceHierarchyRoomsChunk>,
    /// The next room, if we do not know it.
    away: Option<Waiting>,
}

fn walk_here(
    server: &Server,
    mut walk: Walk,
    mut rooms: Vec<SpaceHierarchyRoomsChunk>,
    limit: usize,
) -> Result<HereStep> {
    let snapshot = server.store.snapshot();
    while rooms.len() < limit
        && let Some(next) = walk.waiting.pop_front()
    {
        let view = View::open(&server.rooms, &snapshot, &next.room_id)?;
        let Some(view) = view.filter(|view| view.room.joined > 0) else {
            return Ok(HereStep { walk, rooms, away: Some(next) });
        };
        // Of rooms that none of us is in any more, others know better.
        if !next.via.is_empty() && !view.is_resident()? {
            return Ok(HereStep { walk, rooms, away: Some(next) });
        }
        if summary::is_open_to(server, &view, Some(&walk.user_id))? {
            let children = children::of(&view, walk.suggested_only)?;
            let events = children.iter().map(Child::to_event).collect();
            rooms.push(SpaceHierarchyRoomsChunk::new(summary::of(&view)?, events));
            walk.wait_for(children.into_iter().map(|child| (child, None)).collect(), next.depth);
        }
    }
    Ok(HereStep { walk, rooms, away: None })
}

type ThereStep = Option<(SpaceHierarchyRoomsChunk, usize, Vec<(Child, Option<RoomSummary>)>)>;

/// What another server said of a room and its children, if `user` may know it.
fn walk_there(server: &Server, user: &UserId, next: Waiting, found: Option<remote::Answer>) -> Result<ThereStep> {
    let snapshot = server.store.snapshot();
    if let Some(found) = found {
        if !summary::is_remote_open_to(server, &snapshot, Some(user), &found.room.summary)? {
            return Ok(None);
        }
        let children = children::of_events(&found.room.children_state);
        let events = children.iter().map(Child::to_event).collect();
        let inaccessible: HashSet<_> = found.inaccessible_children.iter().collect();
        let mut waiting = Vec::new();
        for child in children {
            // Nobody else is asked about them, except for who is in there or may come in.
            if inaccessible.contains(&child.room_id) && !summary::is_joined_or_invited(&snapshot, user, &child.room_id)?
            {
                continue;
            }
            let told = found.children.iter().find(|told| told.room_id == child.room_id).cloned();
            waiting.push((child, told));
        }
        let chunk = SpaceHierarchyRoomsChunk::new(found.room.summary.clone(), events);
        return Ok(Some((chunk, next.depth, waiting)));
    }
    // A space was not told whole, but that is better than nothing.
    match next.told {
        Some(Told { room, .. }) if summary::is_remote_open_to(server, &snapshot, Some(user), &room)? => {
            Ok(Some((SpaceHierarchyRoomsChunk::new(*room, Vec::new()), next.depth, Vec::new())))
        }
        _ => Ok(None),
    }
}

/// What another server is told of a space and its children.
///
/// Error: `M_NOT_FOUND` for a room that its users may know nothing of.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid>
pub fn for_server(
    server: &Server,
    asking: &ServerName,
    room_id: &RoomId,
    suggested_only: bool,
) -> Result<get_hierarchy::v1::Response> {
    let unknown = || Error::not_found("There is no such room, or your users can't join it");
    let snapshot = server.store.snapshot();
    let view = View::open(&server.rooms, &snapshot, room_id)?.ok_or_else(unknown)?;
    if !view.is_resident()? || !summary::is_open_to_server(server, &view, asking)? {
        return Err(unknown());
    }
    let children = children::of(&view, suggested_only)?;
    let mut bytes = 0;
    let fits = |event: &Raw<HierarchySpaceChildEvent>| {
        bytes += event.json().get().len();
        bytes <= MAX_LINK_BYTES
    };
    let events: Vec<_> = children.iter().map(Child::to_event).take_while(fits).collect();
    let mut told = get_hierarchy::v1::Response::new(SpaceHierarchyParentSummary::new(summary::of(&view)?, events));
    for child in children.into_iter().take(MAX_TOLD) {
        let Some(view) = View::open(&server.rooms, &snapshot, &child.room_id)? else { continue };
        if !view.is_resident()? {
            continue;
        }
        match summary::is_open_to_server(server, &view, asking)? {
            true => told.children.push(summary::of(&view)?),
            false => told.inaccessible_children.push(child.room_id),
        }
    }
    Ok(told)
}

/// What is known of one room, here or by the servers `via`; `None` for a room that `user` may know nothing of.
pub async fn summarize(
    server: &Arc<Server>,
    user: Option<&UserId>,
    room_id: &RoomId,
    via: &[OwnedServerName],
) -> Result<Option<RoomSummary>> {
    let (asking, room) = (user.map(ToOwned::to_owned), room_id.to_owned());
    let here = server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let Some(view) = View::open(&server.rooms, &snapshot, &room)? else { return Ok(None) };
            if !view.is_resident()? {
                return Ok(None);
            }
            let is_open = summary::is_open_to(server, &view, asking.as_deref())?;
            Ok(Some(is_open.then(|| summary::of(&view)).transpose()?))
        })
        .await?;
    if let Some(answer) = here {
        return Ok(answer);
    }
    let Some(found) = remote::ask(server, room_id, via, false).await else { return Ok(None) };
    let asking = user.map(ToOwned::to_owned);
    let read = move |server: &Server| {
        let told = &found.room.summary;
        let is_open = summary::is_remote_open_to(server, &server.store.snapshot(), asking.as_deref(), told)?;
        Ok(is_open.then(|| told.clone()))
    };
    server.blocking(read).await
}

/// Whether a room is a space: only spaces have children.
fn is_space(room_type: Option<&RoomType>) -> bool {
    room_type == Some(&RoomType::Space)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use ruma::{UInt, owned_room_id, owned_server_name, owned_user_id, room::JoinRuleSummary, room_id, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::{
        clock::Clock,
        config::Config,
        outgoing::{self, Body, Failure, Transport},
        random::Random,
    };

    fn walk(waiting: VecDeque<Waiting>) -> Walk {
        Walk {
            user_id: owned_user_id!("@a:x"),
            root: owned_room_id!("!root:x"),
            suggested_only: false,
            asked_depth: None,
            waiting,
            seen: HashSet::new(),
        }
    }

    fn public(room_id: OwnedRoomId) -> RoomSummary {
        RoomSummary::new(room_id, JoinRuleSummary::Public, false, UInt::MIN, false)
    }

    /// A thousand children, of which another server tells much.
    fn many(first: usize) -> Vec<(Child, Option<RoomSummary>)> {
        let event = |number: usize| {
            let event = json!({
                "type": "m.space.child", "state_key": format!("!{number}:x"), "sender": "@a:x",
                "content": { "via": ["x"] }, "origin_server_ts": number,
            });
            Raw::from_json(to_raw_value(&event).unwrap())
        };
        let events: Vec<Raw<HierarchySpaceChildEvent>> = (first..first + 1_000).map(event).collect();
        let with_summary = |child: Child| {
            let mut told = public(child.room_id.clone());
            told.topic = Some("x".repeat(2_000));
            (child, Some(told))
        };
        children::of_events(&events).into_iter().map(with_summary).collect()
    }

    #[test]
    fn a_walk_has_a_size_and_an_end() {
        let mut walk = walk(VecDeque::new());
        let told = |walk: &Walk| -> usize {
            walk.waiting.iter().filter_map(|waiting| waiting.told.as_ref()).map(|told| told.bytes).sum()
        };
        for space in 0..12 {
            walk.wait_for(many(space * 1_000), 1);
            assert!(walk.waiting.len() <= MAX_WAITING && told(&walk) <= MAX_TOLD_BYTES, "{space}");
        }
        assert_eq!(walk.seen.len(), MAX_SEEN);
        assert!(told(&walk) > 0 && walk.waiting.front().is_some_and(|waiting| waiting.room_id == "!9000:x"));
    }

    /// One server can't be reached, and the others never answer.
    struct Silence;

    impl Transport for Silence {
        fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, Failure>> {
            match request.uri().host() {
                Some("failing.test") => Box::pin(std::future::ready(Err(Failure::TimedOut))),
                _ => Box::pin(std::future::pending()),
            }
        }
    }

    #[tokio::test]
    async fn a_page_waits_no_longer_than_it_may_and_the_walk_comes_past_a_silent_server() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::for_tests("x");
        config.database_path = directory.path().join("data");
        let outgoing = outgoing::Client::with_transport(Arc::new(Silence));
        let open = || Server::open_with(config, Clock::manual(0), Random::from_seed(0), outgoing).unwrap();
        let server = tokio::task::spawn_blocking(open).await.unwrap();

        let (told, via) = (owned_room_id!("!told:x"), vec![owned_server_name!("silent.test:1")]);
        let failing = vec![owned_server_name!("failing.test:1")];
        let waiting = [
            Waiting { room_id: owned_room_id!("!nobodys:x"), depth: 1, via: Vec::new(), told: None },
            Waiting { room_id: owned_room_id!("!unreachable:x"), depth: 1, via: failing, told: None },
            Waiting { room_id: owned_room_id!("!silent:x"), depth: 1, via: via.clone(), told: None },
            Waiting { room_id: told.clone(), depth: 1, via, told: Some(Told::new(public(told.clone()))) },
        ];
        server.walks.insert(0, "begun", Arc::new(walk(waiting.into())));
        let page = async |from: &str| {
            let query = Query { suggested_only: false, max_depth: None, limit: None, from: Some(from.to_owned()) };
            let page = page_within(&server, user_id!("@a:x"), room_id!("!root:x"), query, Duration::from_millis(200));
            let page = tokio::time::timeout(Duration::from_secs(20), page).await.expect("it ends").unwrap();
            let rooms: Vec<_> = page.rooms.into_iter().map(|room| room.summary.room_id).collect();
            (rooms, page.next_batch)
        };
        let (rooms, next) = page("begun").await;
        assert!(rooms.is_empty(), "the silent server did not have all of the time");
        assert_eq!(page(&next.unwrap()).await, (vec![told], None));
    }
}

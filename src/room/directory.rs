//! The directory of public rooms.

use std::{cmp::Reverse, collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use ruma::{
    OwnedRoomId, RoomId, UInt, UserId,
    directory::{PublicRoomsChunk, PublicRoomsChunkInit, RoomTypeFilter},
    events::{
        StateEventType,
        room::{
            avatar::RoomAvatarEventContent,
            canonical_alias::RoomCanonicalAliasEventContent,
            create::RoomCreateEventContent,
            guest_access::{GuestAccess, RoomGuestAccessEventContent},
            join_rules::RoomJoinRulesEventContent,
            name::RoomNameEventContent,
            topic::RoomTopicEventContent,
        },
    },
    room::JoinRuleKind,
};
use serde::de::DeserializeOwned;

use super::{View, aliases, membership};
use crate::{
    Server,
    appservice::tables::NetworkRooms,
    error::{Error, Result},
    store::{self, Family, RoomNid, Snapshot, Table, Transaction},
    user::account,
};

/// How many rooms a page has at most, and unless the client wants fewer. Source: our choice.
const MAX_PAGE: usize = 100;

/// The rooms that are in the directory.
pub struct ListedRooms;
impl Table for ListedRooms {
    const NAME: &'static str = "listed_rooms";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 15;
    type Key<'a> = RoomNid;
    type Value = ();
}

pub(super) fn list(tx: &mut Transaction<'_>, room: RoomNid) {
    tx.put::<ListedRooms>(&room, &());
}

/// Puts one room in the place of another, if that is listed.
pub(super) fn move_listing(tx: &mut Transaction<'_>, from: RoomNid, to: RoomNid) -> store::Result<()> {
    if tx.get::<ListedRooms>(&from)?.is_some() {
        tx.delete::<ListedRooms>(&from);
        list(tx, to);
    }
    Ok(())
}

/// Whether a room is in the directory. Error: `M_NOT_FOUND` if we do not know the room.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directorylistroomroomid>
pub fn is_listed(server: &Server, room_id: &RoomId) -> Result<bool> {
    let room = membership::findable(server, room_id)?;
    Ok(server.store.snapshot().contains::<ListedRooms>(&room)?)
}

/// Puts a room into the directory, or takes it out. Whoever may set its canonical alias may do that, and whoever
/// administers the server.
///
/// Errors: `M_NOT_FOUND`, `M_FORBIDDEN`.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directorylistroomroomid>
pub async fn set_listed(server: &Arc<Server>, user: &UserId, room_id: &RoomId, is_listed: bool) -> Result<()> {
    let room = membership::findable(server, room_id)?;
    let user = user.to_owned();
    let check = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        if aliases::may_set_canonical(&view, &user)? || account::is_admin(&snapshot, &user)? {
            return Ok(());
        }
        Err(Error::forbidden("You may not decide whether this room is in the directory"))
    };
    server.blocking(check).await?;
    let write = move |tx: &mut Transaction<'_>| {
        match is_listed {
            true => list(tx, room),
            false => tx.delete::<ListedRooms>(&room),
        }
        Ok(())
    };
    server.store.commit(write).await
}

/// Which part of the directory a client asks for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// At most this many rooms.
    pub limit: Option<UInt>,
    /// A token of an earlier page.
    pub since: Option<String>,
    /// Only rooms with this in their name, topic or canonical alias, in whatever case.
    pub search: Option<String>,
    /// Only rooms of these types; of all, if empty.
    pub room_types: Vec<RoomTypeFilter>,
    pub network: Network,
}

/// Whose lists of rooms a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Matrix itself.
    #[default]
    Own,
    /// Another network, as an application service lists its rooms.
    Of(String),
    All,
}

#[derive(Clone, Debug, Default)]
pub struct Page {
    pub rooms: Vec<PublicRoomsChunk>,
    pub next_batch: Option<String>,
    pub prev_batch: Option<String>,
    /// How many rooms match on all pages.
    pub total: usize,
}

/// A page of the directory, largest rooms first. Error: `M_INVALID_PARAM` for a token that is none of ours.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3publicrooms>
pub fn page(server: &Server, query: &Query) -> Result<Page> {
    let snapshot = server.store.snapshot();
    let since: Option<Token> = query.since.as_deref().map(str::parse).transpose()?;
    let found = matching(server, &snapshot, query)?;
    let limit = query.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let (from, to) = match &since {
        None => (0, limit),
        Some(Token { forward: true, rank }) => {
            let from = found.partition_point(|(other, _)| other <= rank);
            (from, from + limit)
        }
        Some(Token { forward: false, rank }) => {
            let to = found.partition_point(|(other, _)| other < rank);
            (to.saturating_sub(limit), to)
        }
    };
    let (from, to) = (from.min(found.len()), to.min(found.len()));
    let token =
        |forward, index: usize| found.get(index).map(|(rank, _)| Token { forward, rank: rank.clone() }.to_string());
    let mut page = Page {
        rooms: Vec::with_capacity(to - from),
        next_batch: (to < found.len() && to > from).then(|| token(true, to - 1)).flatten(),
        prev_batch: (from > 0).then(|| token(false, from)).flatten(),
        total: found.len(),
    };
    for (_, room) in &found[from..to] {
        page.rooms.push(match room {
            Found::Read(chunk) => chunk.clone(),
            Found::Unread(room) => describe(&View::of(&server.rooms, &snapshot, *room)?)?,
        });
    }
    Ok(page)
}

/// A room that matches, described if it had to be for that.
enum Found {
    Read(PublicRoomsChunk),
    Unread(RoomNid),
}

/// All listed rooms with members of ours that match the filters, in the order of the directory.
fn matching(server: &Server, snapshot: &Snapshot<'_>, query: &Query) -> Result<Vec<(Rank, Found)>> {
    let search = query.search.as_ref().map(|term| term.to_lowercase()).filter(|term| !term.is_empty());
    let mut found = Vec::new();
    for nid in listed(snapshot, &query.network)? {
        let view = View::of(&server.rooms, snapshot, nid)?;
        if !view.is_resident()? {
            continue;
        }
        let rank = Rank { joined: Reverse(view.room.joined), room_id: view.room_id().to_owned() };
        if search.is_none() && query.room_types.is_empty() {
            found.push((rank, Found::Unread(nid)));
            continue;
        }
        let chunk = describe(&view)?;
        if search.as_deref().is_none_or(|term| mentions(&chunk, term)) && has_type(&chunk, &query.room_types) {
            found.push((rank, Found::Read(chunk)));
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

fn listed(snapshot: &Snapshot<'_>, network: &Network) -> Result<BTreeSet<RoomNid>> {
    let mut rooms = BTreeSet::new();
    if matches!(network, Network::Own | Network::All) {
        for row in snapshot.list::<ListedRooms>(&()) {
            rooms.insert(row?.key()?);
        }
    }
    let of_networks = match network {
        Network::Own => return Ok(rooms),
        Network::Of(network) => snapshot.list::<NetworkRooms>(&network.as_str()),
        Network::All => snapshot.list::<NetworkRooms>(&()),
    };
    for row in of_networks {
        rooms.insert(row?.key()?.1);
    }
    Ok(rooms)
}

/// Puts a room into the list that an application service keeps of a network, or takes it out. `M_NOT_FOUND` if we do not
/// know the room.
///
/// <https://spec.matrix.org/v1.19/application-service-api/#published-room-directories>
pub async fn set_listed_in(server: &Server, network: String, room_id: &RoomId, is_listed: bool) -> Result<()> {
    let room = membership::findable(server, room_id)?;
    let write = move |tx: &mut Transaction<'_>| {
        match is_listed {
            true => tx.put::<NetworkRooms>(&(&network, room), &()),
            false => tx.delete::<NetworkRooms>(&(&network, room)),
        }
        Ok(())
    };
    server.store.commit(write).await
}

fn mentions(chunk: &PublicRoomsChunk, term: &str) -> bool {
    let texts = [chunk.name.as_deref(), chunk.topic.as_deref(), chunk.canonical_alias.as_deref().map(AsRef::as_ref)];
    texts.into_iter().flatten().any(|text: &str| text.to_lowercase().contains(term))
}

fn has_type(chunk: &PublicRoomsChunk, wanted: &[RoomTypeFilter]) -> bool {
    wanted.is_empty() || wanted.contains(&RoomTypeFilter::from(chunk.room_type.clone()))
}

/// What the directory says of a room.
pub fn describe(view: &View<'_>) -> Result<PublicRoomsChunk> {
    let guest_access: Option<RoomGuestAccessEventContent> = content(view, StateEventType::RoomGuestAccess)?;
    let mut chunk = PublicRoomsChunk::from(PublicRoomsChunkInit {
        num_joined_members: UInt::new_saturating(view.room.joined),
        room_id: view.room_id().to_owned(),
        world_readable: aliases::is_world_readable(view)?,
        guest_can_join: guest_access.is_some_and(|content| content.guest_access == GuestAccess::CanJoin),
    });
    let alias: Option<RoomCanonicalAliasEventContent> = content(view, StateEventType::RoomCanonicalAlias)?;
    chunk.canonical_alias = alias.and_then(|content| content.alias);
    let name: Option<RoomNameEventContent> = content(view, StateEventType::RoomName)?;
    chunk.name = name.map(|content| content.name).filter(|name| !name.is_empty());
    let topic: Option<RoomTopicEventContent> = content(view, StateEventType::RoomTopic)?;
    chunk.topic = topic.map(plain).filter(|topic| !topic.is_empty());
    let avatar: Option<RoomAvatarEventContent> = content(view, StateEventType::RoomAvatar)?;
    chunk.avatar_url = avatar.and_then(|content| content.url);
    let join_rules: Option<RoomJoinRulesEventContent> = content(view, StateEventType::RoomJoinRules)?;
    chunk.join_rule = join_rules.map_or(JoinRuleKind::Invite, |content| content.join_rule.kind());
    let create: Option<RoomCreateEventContent> = content(view, StateEventType::RoomCreate)?;
    chunk.room_type = create.and_then(|content| content.room_type);
    Ok(chunk)
}

/// A topic as plain text. Clients that know rich topics show what is in `m.topic`, so that this is the topic.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#mroomtopic>
fn plain(content: RoomTopicEventContent) -> String {
    content.topic_block.text.find_plain().map_or(content.topic, str::to_owned)
}

fn content<T: DeserializeOwned>(view: &View<'_>, event_type: StateEventType) -> Result<Option<T>> {
    Ok(view.state_content(view.current_state(), &event_type, "")?)
}

/// The place of a room in the directory: larger rooms first. Names a place also when the room is there no more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    joined: Reverse<u64>,
    room_id: OwnedRoomId,
}

/// Where a page goes on: after a place, or before it. Rooms that come and go do not move the others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    forward: bool,
    rank: Rank,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { forward, rank } = self;
        write!(f, "{}{}{}", if *forward { 'n' } else { 'p' }, rank.joined.0, rank.room_id)
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (place, room) = text.split_at(text.find('!')?);
            let forward = match place.get(..1)? {
                "n" => true,
                "p" => false,
                _ => return None,
            };
            let rank = Rank { joined: Reverse(place[1..].parse().ok()?), room_id: RoomId::parse(room).ok()? };
            Some(Self { forward, rank })
        };
        parse().ok_or_else(|| Error::invalid_param("`since` is no token of this server"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::user_id;

    use super::*;
    use crate::room::testing::TestRoom;

    #[test]
    fn a_room_that_this_server_has_left_is_not_shown() {
        let room = TestRoom::new();
        let nid = room.nid;
        room.change(move |tx| list(tx, nid));
        room.receive_member(user_id!("@bob:other.test"), "join");
        let total = || page(&room.server, &Query::default()).unwrap().total;
        assert_eq!(total(), 1);
        room.member("alice", "alice", "leave");
        assert_eq!(total(), 0);
    }

    #[test]
    fn tokens_come_back() {
        for text in ["n12!room:server", "p0!hash", "n18446744073709551615!a:b"] {
            assert_eq!(text.parse::<Token>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_refused(text: String) {
            let _ = text.parse::<Token>();
        }
    }

    #[test]
    fn larger_rooms_come_first() {
        let rank = |joined, id: &str| Rank { joined: Reverse(joined), room_id: RoomId::parse(id).unwrap() };
        assert!(rank(3, "!b:x") < rank(2, "!a:x"));
        assert!(rank(2, "!a:x") < rank(2, "!b:x"));
    }
}

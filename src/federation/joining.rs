//! Joining rooms of other servers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, RoomVersionId, ServerName, UserId,
    api::{
        error::ErrorKind,
        federation::membership::{create_join_event, prepare_join_event},
    },
    events::TimelineEventType,
};
use serde::Deserialize;
use tracing::{debug, info};

use super::{
    completing, events,
    handshake::{Candidates, Prepared, raw},
    queue, refusal, relay, request,
};
use crate::{
    Server, appservice,
    error::{Error, Result},
    event::{Pdu, Verified, rules},
    room::{
        Membership, View, aliases,
        append::{self, Incoming, Place, Verdict},
        gaps, invited,
        membership::{self, Content},
        outliers,
        partial::{self, Partial, tables::MAX_SERVERS},
        remote,
        servers::is_joined,
        tables::RoomIds,
    },
    store::RoomNid,
    user::guests,
};

/// How long a user waits for servers to tell each other what may let him in.
const PATIENCE: Duration = Duration::from_secs(1);

/// Joins a room wherever it is. `via`: servers that may be in it, as the client names them. `extra` goes into the member
/// event.
///
/// Errors: `M_FORBIDDEN` where the room does not let the user in, `M_NOT_FOUND` if no server is known that could know the
/// room, else what the last of the servers said.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>
pub async fn join(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    via: &[OwnedServerName],
    extra: Content,
) -> Result<()> {
    if let Some(answer) = join_here(server, user, room_id, &extra).await? {
        return answer;
    }
    // Whether a room of other servers lets guests in is known only after it let one in.
    if guests::is_guest(&server.store.snapshot(), user)? {
        return Err(guests::forbidden());
    }
    let (server, user, room_id, via) = (Arc::clone(server), user.to_owned(), room_id.to_owned(), via.to_vec());
    // A client that hangs up must not leave a room half entered.
    Server::detached(async move {
        let _turn = server.inbox.joins.take(room_id.clone()).await;
        if resident(&server, &room_id).await?.is_some_and(|(_, is_whole)| is_whole) {
            until_told(&server, &user, &room_id).await?;
        }
        if let Some(answer) = join_here(&server, &user, &room_id, &extra).await? {
            return answer; // somebody else has brought the room here meanwhile
        }
        join_there(&server, &user, &room_id, &via, extra).await
    })
    .await
}

/// Waits a moment for the room's other servers to be told what happened here, and for us to hear what happened there: the
/// user may have come only now into the room whose members are let into this one.
async fn until_told(server: &Arc<Server>, user: &UserId, room_id: &RoomId) -> Result<()> {
    let others: Vec<_> = Candidates::find(server, user, room_id, &[]).await?.iter().cloned().collect();
    tokio::time::timeout(PATIENCE, queue::until_sent(server, &others)).await.unwrap_or(Ok(()))
}

/// Joins a room that this server is in; `None` if it is not, or if nobody here may let the user in.
async fn join_here(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    extra: &Content,
) -> Result<Option<Result<()>>> {
    let Some((room, is_whole)) = resident(server, room_id).await? else { return Ok(None) };
    // Where members are not known, nobody here knows whether he is banned.
    if !is_whole && !is_member(server, user, room).await? {
        return Ok(None);
    }
    let (message, may_be_known_elsewhere) = match membership::join(server, user, room, extra.clone()).await {
        Err(Error::Refused { kind: ErrorKind::UnableToAuthorizeJoin, message, .. }) => (message, true),
        // An invite may have come without its place in the room, which then does not know of it yet.
        Err(Error::Refused { kind: ErrorKind::Forbidden, message, .. }) => {
            (message, invited::is_out_of_band(server, user, room).await?)
        }
        answer => return Ok(Some(answer)),
    };
    let may_be_asked = may_be_known_elsewhere && !Candidates::find(server, user, room_id, &[]).await?.is_empty();
    Ok((!may_be_asked).then(|| Err(Error::forbidden(message))))
}

async fn is_member(server: &Arc<Server>, user: &UserId, room: RoomNid) -> Result<bool> {
    let user = user.to_owned();
    server.blocking(move |server| Ok(is_joined(server, &server.store.snapshot(), room, &user)?)).await
}

/// The number of a room that this server takes part in, and whether its state is whole.
pub async fn resident(server: &Arc<Server>, room_id: &RoomId) -> Result<Option<(RoomNid, bool)>> {
    let room_id = room_id.to_owned();
    server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let Some(nid) = snapshot.get::<RoomIds>(&&*room_id)? else { return Ok(None) };
            let is_resident = remote::is_resident(&View::of(&server.rooms, &snapshot, nid)?)?;
            Ok(is_resident.then_some((nid, !partial::is_partial(&snapshot, nid)?)))
        })
        .await
}

async fn join_there(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    via: &[OwnedServerName],
    extra: Content,
) -> Result<()> {
    let Candidates { named, others } = Candidates::find(server, user, room_id, via).await?;
    let mut failed = None;
    for servers in [named, others] {
        for candidate in servers {
            match join_by(server, user, room_id, &candidate, extra.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    info!(%room_id, server = %candidate, "a room can't be joined through this server: {error:?}");
                    failed = Some(refusal::more_telling(failed, error));
                }
            }
        }
        // The client named servers that know the room, and they do not let the user in: then he is not let in.
        if failed.as_ref().is_some_and(refusal::is_by_the_room) {
            break;
        }
    }
    Err(failed.unwrap_or_else(|| Error::not_found("This server knows no such room, and nobody to ask about it")))
}

async fn join_by(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    through: &ServerName,
    mut content: Content,
) -> Result<()> {
    let mut prepare = prepare_join_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    prepare.ver = rules::known();
    let draft = request(server, through, prepare).await?;
    let prepared = Prepared::read(draft.room_version, &draft.event, room_id, user, Membership::Join)?;
    let (version, rules, authorizer) = (prepared.version.clone(), prepared.rules, prepared.authorizer.clone());
    content = membership::own_content(server, user, Membership::Join, content).await?;
    if let Some(authorizer) = &authorizer {
        // Our own signature would vouch for the user where somebody of ours is named, and nobody looked at the conditions.
        if authorizer.server_name() != through {
            let message = "The other server lets somebody vouch for the join who is not its user";
            return Err(Error::refused(ErrorKind::Unknown, message));
        }
        content.insert("join_authorised_via_users_server".to_owned(), authorizer.as_str().into());
    }
    let event = prepared.build(server, room_id, user, &content)?;
    let mut send = create_join_event::v2::Request::new(room_id.to_owned(), event.pdu().event_id.clone(), raw(&event));
    // Whoever knows all members loses nothing by hearing of them once more.
    let is_whole = resident(server, room_id).await?.is_some_and(|(_, is_whole)| is_whole);
    send.omit_members = server.config.federation.partial_joins && !is_whole;
    let asked_to_omit = send.omit_members;
    let answer = request(server, through, send).await?.room_state;
    if answer.members_omitted && !asked_to_omit {
        return Err(Error::refused(ErrorKind::Unknown, "The other server left out members that were asked for"));
    }
    let event = match answer.event {
        Some(signed) => countersigned(server, rules, event, signed, authorizer.is_some()).await?,
        None if authorizer.is_some() => {
            return Err(Error::refused(ErrorKind::Unknown, "The other server did not sign for the restricted join"));
        }
        None => event,
    };
    let asked = answer.state.len() + answer.auth_chain.len();
    let state = events::check(server, rules, room_id, answer.state).await?;
    let chain = events::check(server, rules, room_id, answer.auth_chain).await?;
    debug!(%room_id, events = asked, right = state.len() + chain.len(), "the state of a room came in");
    check_create_event(&state, &version)?;
    let ids = state.iter().map(|event| event.pdu().event_id.clone()).collect();
    let _entry = remote::begin_entry(server, room_id.to_owned(), version.clone());
    let room = remote::claim(server, room_id.to_owned(), version).await?;
    outliers::store(server, room, state.into_iter().chain(chain).collect()).await?;
    let others = answer.members_omitted.then(|| servers_in_room(server, through, answer.servers_in_room));
    enter(server, room, event, (ids, others), through).await
}

/// The servers that are in a room as the one says that let us in, that one first.
fn servers_in_room(server: &Server, through: &ServerName, said: Option<Vec<String>>) -> Vec<OwnedServerName> {
    let mut servers = vec![through.to_owned()];
    let mut seen: BTreeSet<OwnedServerName> = [through.to_owned(), server.owned_name()].into();
    for name in said.into_iter().flatten().take(MAX_SERVERS) {
        if let Ok(name) = OwnedServerName::try_from(name)
            && seen.insert(name.clone())
        {
            servers.push(name);
        }
    }
    servers
}

/// Our event with the signatures of the server that let us in, where that returns it.
async fn countersigned(
    server: &Arc<Server>,
    rules: &'static ruma::room_version_rules::RoomVersionRules,
    ours: Verified,
    signed: Box<serde_json::value::RawValue>,
    must_be: bool,
) -> Result<Verified> {
    let checked = events::check(server, rules, &ours.pdu().room_id, vec![signed]).await?;
    let same = checked.into_iter().find(|event| {
        event.pdu().event_id == ours.pdu().event_id && event.json().get("content") == ours.json().get("content")
    });
    match same {
        Some(event) => Ok(event),
        None if must_be => {
            Err(Error::refused(ErrorKind::Unknown, "The other server's signature for the restricted join is wrong"))
        }
        None => Ok(ours),
    }
}

/// The state must be that of a room of the version that we built our event for.
fn check_create_event(state: &[Verified], version: &RoomVersionId) -> Result<()> {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<RoomVersionId>,
    }
    let create = state.iter().find(|event| {
        event.pdu().event_type == TimelineEventType::RoomCreate && event.pdu().state_key.as_deref() == Some("")
    });
    let create = create.ok_or_else(|| Error::refused(ErrorKind::Unknown, "The state has no create event"))?;
    let content: Content = serde_json::from_str(create.pdu().content.get())
        .map_err(|e| Error::bad_json(format!("The room's create event is malformed: {e}")))?;
    if content.room_version.as_ref().unwrap_or(&RoomVersionId::V1) != version {
        return Err(Error::refused(ErrorKind::Unknown, "The room is not of the version that the other server said"));
    }
    Ok(())
}

/// How our join becomes part of a room.
struct Entrance {
    place: Place,
    /// The state before it, as far as that could be kept.
    given: Vec<Arc<[OwnedEventId]>>,
    /// The room's state is not whole already.
    is_partial: bool,
    /// Nobody of ours was left in the room when its state was not whole.
    was_left: bool,
}

impl Entrance {
    fn find(view: &View<'_>, event: &Pdu, state: Vec<OwnedEventId>, lacks_members: bool) -> Result<Self> {
        let mut known = Vec::with_capacity(state.len());
        for id in state {
            if view.event_nid(&id)?.is_some() {
                known.push(id);
            }
        }
        let is_partial = partial::is_partial(view.snapshot, view.nid)?;
        let was_left = partial::was_left(view.snapshot, view.nid)?;
        let is_resident = remote::is_resident(view)?;
        let mut follows_known = is_partial || is_resident && lacks_members;
        for id in &event.prev_events {
            follows_known &= gaps::placed(view, id)?.is_some();
        }
        if follows_known {
            // It follows on what we have, though that may lack members too: all is completed together.
            return Ok(Self { place: Place::Admitted, given: Vec::new(), is_partial, was_left });
        }
        if is_resident && lacks_members && !is_partial {
            let message = "The members of the room became known while somebody else was asked to let the user in";
            return Err(Error::refused(ErrorKind::Unknown, message));
        }
        let place = if is_resident { Place::Admitted } else { Place::Entry };
        Ok(Self { place, given: vec![known.into()], is_partial, was_left })
    }
}

/// Makes our join part of the room with the state before it; where that lacks members, with the servers in the room.
async fn enter(
    server: &Arc<Server>,
    room: RoomNid,
    event: Verified,
    (state, servers): (Vec<OwnedEventId>, Option<Vec<OwnedServerName>>),
    through: &ServerName,
) -> Result<()> {
    let (pdu, lacks_members) = (event.pdu().clone(), servers.is_some());
    let find = move |server: &Server| {
        let snapshot = server.store.snapshot();
        Entrance::find(&View::of(&server.rooms, &snapshot, room)?, &pdu, state, lacks_members)
    };
    let Entrance { place, given, is_partial, was_left } = server.blocking(find).await?;
    let event_id = event.pdu().event_id.clone();
    match servers {
        Some(servers) if place == Place::Entry => {
            let entry = event_id.clone();
            partial::begin(server, room, Partial { entry, servers, failures: 0 }).await?;
        }
        Some(servers) => partial::add_servers(server, room, servers).await?,
        None if is_partial && place == Place::Entry => partial::give_up(server, room).await?,
        None => {}
    }
    let lacks_members = lacks_members && !given.is_empty();
    let incoming = Incoming { place, given, lacks_members, ..Incoming::live(event) };
    let append = append::take_in(server, room, vec![incoming]);
    let appended = relay::marked(server, &event_id, through, append).await?;
    let refused = match appended.into_iter().next().map(|appended| appended.verdict) {
        Some(Verdict::Accepted) | None => None,
        Some(Verdict::Rejected(refusal) | Verdict::SoftFailed(refusal)) => Some(refusal),
    };
    if let Some(refusal) = refused {
        relay::unmark(server, &event_id).await?;
        if place == Place::Entry && lacks_members {
            partial::give_up(server, room).await?;
        }
        return Err(Error::forbidden(format!("The rules of the room do not allow this: {refusal}")));
    }
    match (place, lacks_members) {
        (Place::Entry, false) if is_partial || was_left => partial::forget(server, room).await?,
        (Place::Entry, false) => {}
        _ if lacks_members || is_partial => completing::start(server, room),
        _ => {}
    }
    Ok(())
}

/// The room that a client names by its id or by an alias, and by which servers it may be reached: those that the client
/// names first. Error: `M_NOT_FOUND`.
pub async fn find(
    server: &Arc<Server>,
    name: &RoomOrAliasId,
    mut via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    match <&RoomId>::try_from(name) {
        Ok(room_id) => Ok((room_id.to_owned(), via)),
        Err(alias) => {
            appservice::query::alias(server, alias).await?; // a service may make it only now
            let (room_id, servers) = aliases::room_of_any(server, alias).await?;
            via.extend(servers);
            Ok((room_id, via))
        }
    }
}

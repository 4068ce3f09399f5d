//! Joining rooms of other servers.

use std::{sync::Arc, time::Duration};

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
    events,
    handshake::{Candidates, Prepared, raw},
    queue, refusal, relay, request,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{Verified, rules},
    room::{
        Membership, View, aliases,
        append::{self, Incoming, Place, Verdict},
        invited,
        membership::{self, Content},
        outliers, remote,
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
        if resident(&server, &room_id).await?.is_some() {
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
    let Some(room) = resident(server, room_id).await? else { return Ok(None) };
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

/// The number of a room that this server takes part in.
pub async fn resident(server: &Arc<Server>, room_id: &RoomId) -> Result<Option<RoomNid>> {
    let room_id = room_id.to_owned();
    server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let Some(nid) = snapshot.get::<RoomIds>(&&*room_id)? else { return Ok(None) };
            Ok(remote::is_resident(&View::of(&server.rooms, &snapshot, nid)?)?.then_some(nid))
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
        content.insert("join_authorised_via_users_server".to_owned(), authorizer.as_str().into());
    }
    let event = prepared.build(server, room_id, user, &content)?;
    let send = create_join_event::v2::Request::new(room_id.to_owned(), event.pdu().event_id.clone(), raw(&event));
    let answer = request(server, through, send).await?.room_state;
    if answer.members_omitted {
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
    let room = remote::claim(server, room_id.to_owned(), version).await?;
    outliers::store(server, room, state.into_iter().chain(chain).collect()).await?;
    enter(server, room, event, ids, through).await
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

/// Makes our join part of the room, whose state before it is `state`, as far as that could be kept.
async fn enter(
    server: &Arc<Server>,
    room: RoomNid,
    event: Verified,
    state: Vec<OwnedEventId>,
    through: &ServerName,
) -> Result<()> {
    let (given, is_resident) = server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            let mut known = Vec::with_capacity(state.len());
            for id in state {
                if view.event_nid(&id)?.is_some() {
                    known.push(id);
                }
            }
            Ok((known, remote::is_resident(&view)?))
        })
        .await?;
    let place = if is_resident { Place::Admitted } else { Place::Entry };
    let event_id = event.pdu().event_id.clone();
    relay::mark(server, &event_id, through).await?;
    let incoming = Incoming { event, place, given: vec![given.into()] };
    let appended = append::take_in(server, room, vec![incoming]).await?;
    match appended.into_iter().next().map(|appended| appended.verdict) {
        Some(Verdict::Accepted) | None => Ok(()),
        Some(Verdict::Rejected(refusal) | Verdict::SoftFailed(refusal)) => {
            relay::unmark(server, &event_id).await?;
            Err(Error::forbidden(format!("The rules of the room do not allow this: {refusal}")))
        }
    }
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
            let (room_id, servers) = aliases::room_of_any(server, alias).await?;
            via.extend(servers);
            Ok((room_id, via))
        }
    }
}

//! Rejecting invites and taking back knocks, in rooms that this server is not in.

use std::sync::Arc;

use ruma::{
    RoomId, ServerName, UserId,
    api::federation::membership::{create_leave_event, prepare_leave_event},
};
use tracing::info;

use super::{
    handshake::{Candidates, Prepared, raw},
    request,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{
        Context, Draft, Verified,
        build::{self, Legacy},
        hash,
    },
    room::{
        Membership, View, invited,
        membership::{self, Content},
        tables::UserRooms,
    },
    store::RoomNid,
};

/// Leaves a room wherever it is. Of one that we are not in, the user is rid even if no server there can be reached: it
/// then does not learn of it.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites>
pub async fn leave(server: &Arc<Server>, user: &UserId, room_id: &RoomId, reason: Option<String>) -> Result<()> {
    let room = membership::findable(server, room_id)?;
    if !invited::is_out_of_band(server, user, room).await? {
        return membership::leave(server, user, room, reason).await;
    }
    let (server, user, room_id) = (Arc::clone(server), user.to_owned(), room_id.to_owned());
    Server::detached(async move {
        let content = membership::because(reason.clone());
        let told = leave_there(&server, &user, &room_id, &content).await?;
        // Not taken before: a server that does not answer must hold up nobody who joins.
        let _turn = server.inbox.joins.take(room_id).await;
        if has_left(&server, &user, room).await? {
            return Ok(());
        }
        // He, or somebody else of ours, may have come into the room meanwhile.
        if !invited::is_out_of_band(&server, &user, room).await? {
            return membership::leave(&server, &user, room, reason).await;
        }
        let event = match told {
            Some(event) => event,
            None => leave_here(&server, &user, room, content).await?,
        };
        invited::set(&server, room, user, Membership::Leave, event, None).await?;
        Ok(())
    })
    .await
}

/// Whether the invite or the knock ended otherwise, by another device of his for example.
async fn has_left(server: &Arc<Server>, user: &UserId, room: RoomNid) -> Result<bool> {
    let user = user.to_owned();
    server
        .read(move |snapshot| {
            let row = snapshot.get::<UserRooms>(&(&user, room))?;
            Ok(row.is_some_and(|row| row.membership == Membership::Leave))
        })
        .await
}

/// Tells a server that is in the room; `None` if none could be told.
async fn leave_there(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    content: &Content,
) -> Result<Option<Verified>> {
    for candidate in Candidates::find(server, user, room_id, &[]).await?.iter() {
        match leave_by(server, user, room_id, candidate, content.clone()).await {
            Ok(event) => return Ok(Some(event)),
            Err(error) => info!(%room_id, server = %candidate, "a room can't be left through this server: {error:?}"),
        }
    }
    Ok(None)
}

async fn leave_by(
    server: &Arc<Server>,
    user: &UserId,
    room_id: &RoomId,
    through: &ServerName,
    mut content: Content,
) -> Result<Verified> {
    let prepare = prepare_leave_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    let draft = request(server, through, prepare).await?;
    let prepared = Prepared::read(draft.room_version, &draft.event, room_id, user, Membership::Leave)?;
    content.insert("membership".to_owned(), "leave".into());
    let event = prepared.build(server, room_id, user, &content)?;
    let send = create_leave_event::v2::Request::new(room_id.to_owned(), event.pdu().event_id.clone(), raw(&event));
    request(server, through, send).await?;
    Ok(event)
}

/// A leave that nobody else gets to see, after the invite or the knock.
async fn leave_here(server: &Arc<Server>, user: &UserId, room: RoomNid, mut content: Content) -> Result<Verified> {
    let user = user.to_owned();
    content.insert("membership".to_owned(), "leave".into());
    server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            let row = snapshot.get::<UserRooms>(&(&user, room))?;
            let row = row.ok_or_else(|| Error::forbidden("You are not in this room"))?;
            let before = view.event(row.event)?;
            let json = before.view().json(view.room_id(), view.rules).map_err(|e| Error::internal(e.to_string()))?;
            let hash = hash::reference_sha256(&json, view.rules).map_err(|e| Error::internal(e.to_string()))?;
            let hashes = [(before.event_id.clone(), hash)].into();
            let localpart = server.random.text(18);
            let content = serde_json::value::to_raw_value(&content).expect("a JSON object serializes");
            let named = [before.event_id];
            let context = Context {
                rules: view.rules,
                room_id: Some(view.room_id()),
                sender: &user,
                prev_events: &named,
                auth_events: &named,
                depth: before.depth + 1,
                origin_server_ts: server.clock.now(),
                server_name: server.name(),
                key: &server.key,
                legacy: Some(Legacy { localpart: &localpart, hashes: &hashes }),
            };
            let draft = Draft::state("m.room.member".into(), user.as_str(), content);
            build::build(draft, &context).map_err(|e| Error::bad_json(format!("The member event can't be made: {e}")))
        })
        .await
}

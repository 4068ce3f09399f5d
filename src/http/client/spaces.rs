//! Spaces, and what is told of a room before somebody joins it.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId,
    api::client::{room::get_summary, space::get_hierarchy},
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix, MaybeClient},
    },
    room::{
        View, aliases,
        hierarchy::{self, Query},
        membership,
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_hierarchy::v1::Request, _, _>(space_hierarchy)).merge(endpoint::<
        get_summary::v1::Request,
        _,
        _,
    >(room_summary))
}

/// `GET /rooms/{roomId}/hierarchy`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy>
async fn space_hierarchy(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_hierarchy::v1::Request>,
) -> Result<Matrix<get_hierarchy::v1::Response>> {
    let query = Query {
        suggested_only: body.suggested_only,
        max_depth: body.max_depth.map(Into::into),
        limit: body.limit.map(Into::into),
        from: body.from,
    };
    let page = hierarchy::page(&server, &sender.user_id, &body.room_id, query).await?;
    let mut response = get_hierarchy::v1::Response::new();
    (response.rooms, response.next_batch) = (page.rooms, page.next_batch);
    Ok(Matrix(response))
}

/// `GET /room_summary/{roomIdOrAlias}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias>
async fn room_summary(
    State(server): State<Arc<Server>>,
    MaybeClient { sender, body, .. }: MaybeClient<get_summary::v1::Request>,
) -> Result<Matrix<get_summary::v1::Response>> {
    let not_found = || Error::not_found("Room not found");
    let (room_id, mut via) = match <&RoomId>::try_from(&*body.room_id_or_alias) {
        Ok(room_id) => (room_id.to_owned(), body.via),
        Err(alias) => resolve(&server, sender.is_some(), alias).await?,
    };
    if sender.is_none() {
        via.clear(); // whom we do not know, other servers do not work for
    }
    let user = sender.map(|sender| sender.user_id);
    let summary = hierarchy::summarize(&server, user.as_deref(), &room_id, &via).await?.ok_or_else(not_found)?;
    let mut response = get_summary::v1::Response::new(summary);
    if let Some(user) = user {
        let membership = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let Some(view) = View::open(&server.rooms, &snapshot, &room_id)? else { return Ok(None) };
            membership::of_own_user(&view, &user)
        };
        response.membership = server.blocking(membership).await?.map(|membership| membership.to_state());
    }
    Ok(Matrix(response))
}

/// The room with that alias, and where it is. Whom we do not know, other servers are not asked for.
async fn resolve(
    server: &Arc<Server>,
    is_known: bool,
    alias: &RoomAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    if !is_known && alias.server_name() != server.name() {
        return Err(Error::not_found("Room not found"));
    }
    aliases::room_of_any(server, alias).await
}

//! Room aliases.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::{
    alias::{create_alias, delete_alias, get_alias},
    room::aliases as list_aliases,
};

use crate::{
    Server, appservice,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Matrix, Public},
    },
    room::aliases,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<create_alias::v3::Request, _, _>(create))
        .merge(endpoint::<delete_alias::v3::Request, _, _>(delete))
        .merge(endpoint::<get_alias::v3::Request, _, _>(resolve))
        .merge(endpoint::<list_aliases::v3::Request, _, _>(list))
}

/// `PUT /directory/room/{roomAlias}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directoryroomroomalias>
async fn create(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<create_alias::v3::Request>,
) -> Result<Matrix<create_alias::v3::Response>> {
    server.limits.message(&sender)?;
    server.appservices.check_alias(&body.room_alias, sender.appservice.as_deref())?;
    let by_service = sender.appservice.is_some();
    aliases::create(&server, &sender.user_id, by_service, body.room_alias, &body.room_id).await?;
    Ok(Matrix(create_alias::v3::Response::new()))
}

/// `GET /directory/room/{roomAlias}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directoryroomroomalias>
async fn resolve(
    State(server): State<Arc<Server>>,
    Public { body, .. }: Public<get_alias::v3::Request>,
) -> Result<Matrix<get_alias::v3::Response>> {
    appservice::query::alias(&server, &body.room_alias).await?;
    let (room_id, servers) = aliases::room_of_any(&server, &body.room_alias).await?;
    Ok(Matrix(get_alias::v3::Response::new(room_id, servers)))
}

/// `DELETE /directory/room/{roomAlias}`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3directoryroomroomalias>
async fn delete(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<delete_alias::v3::Request>,
) -> Result<Matrix<delete_alias::v3::Response>> {
    server.appservices.check_alias(&body.room_alias, sender.appservice.as_deref())?;
    aliases::remove(&server, &sender.user_id, body.room_alias).await?;
    Ok(Matrix(delete_alias::v3::Response::new()))
}

/// `GET /rooms/{roomId}/aliases`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidaliases>
async fn list(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<list_aliases::v3::Request>,
) -> Result<Matrix<list_aliases::v3::Response>> {
    let found = server.blocking(move |server| aliases::of_room(server, &sender.user_id, &body.room_id)).await?;
    Ok(Matrix(list_aliases::v3::Response::new(found)))
}

//! What clients keep with us for their user.

use std::sync::Arc;

use axum::{Router, extract::State, routing::delete};
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::{
        client::config::{
            get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
        },
        error::ErrorKind,
    },
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix, UntypedClient},
    },
    user::account_data::{self, GLOBAL, check_own},
};

pub fn router() -> Router<Arc<Server>> {
    // Deleting is a proposal, MSC3391, of which ruma knows nothing.
    let user = "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}";
    Router::new()
        .route(&format!("{user}/account_data/{{event_type}}"), delete(delete_global))
        .route(&format!("{user}/rooms/{{room_id}}/account_data/{{event_type}}"), delete(delete_of_room))
        .merge(endpoint::<get_global_account_data::v3::Request, _, _>(get_global))
        .merge(endpoint::<set_global_account_data::v3::Request, _, _>(set_global))
        .merge(endpoint::<get_room_account_data::v3::Request, _, _>(get_of_room))
        .merge(endpoint::<set_room_account_data::v3::Request, _, _>(set_of_room))
}

/// `GET /user/{userId}/account_data/{type}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridaccount_datatype>
async fn get_global(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_global_account_data::v3::Request>,
) -> Result<Matrix<get_global_account_data::v3::Response>> {
    check_own(&sender.user_id, &body.user_id)?;
    let event_type = body.event_type.to_string();
    let content = server.read(move |snapshot| account_data::read(snapshot, &body.user_id, GLOBAL, &event_type)).await?;
    Ok(Matrix(get_global_account_data::v3::Response::new(raw(content)?)))
}

/// `PUT /user/{userId}/account_data/{type}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridaccount_datatype>
async fn set_global(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<set_global_account_data::v3::Request>,
) -> Result<Matrix<set_global_account_data::v3::Response>> {
    check_own(&sender.user_id, &body.user_id)?;
    let event_type = body.event_type.to_string();
    account_data::set(&server, &body.user_id, GLOBAL, &event_type, content(&raw, &body.data)?).await?;
    Ok(Matrix(set_global_account_data::v3::Response::new()))
}

/// `GET /user/{userId}/rooms/{roomId}/account_data/{type}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridroomsroomidaccount_datatype>
async fn get_of_room(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_room_account_data::v3::Request>,
) -> Result<Matrix<get_room_account_data::v3::Response>> {
    check_own(&sender.user_id, &body.user_id)?;
    let event_type = body.event_type.to_string();
    let content = server
        .read(move |snapshot| {
            let room = account_data::room_of(snapshot, &body.user_id, &body.room_id)?;
            account_data::read(snapshot, &body.user_id, room, &event_type)
        })
        .await?;
    Ok(Matrix(get_room_account_data::v3::Response::new(raw(content)?)))
}

/// `PUT /user/{userId}/rooms/{roomId}/account_data/{type}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype>
async fn set_of_room(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<set_room_account_data::v3::Request>,
) -> Result<Matrix<set_room_account_data::v3::Response>> {
    check_own(&sender.user_id, &body.user_id)?;
    let room = account_data::room_of(&server.store.snapshot(), &body.user_id, &body.room_id)?;
    let event_type = body.event_type.to_string();
    account_data::set(&server, &body.user_id, room, &event_type, content(&raw, &body.data)?).await?;
    Ok(Matrix(set_room_account_data::v3::Response::new()))
}

/// `DELETE /user/{userId}/account_data/{type}`
/// <https://github.com/matrix-org/matrix-spec-proposals/pull/3391>
async fn delete_global(State(server): State<Arc<Server>>, request: UntypedClient) -> Result<Json<Value>> {
    let (user_id, event_type): (OwnedUserId, String) = (request.part(0)?, request.part(1)?);
    check_own(&request.sender.user_id, &user_id)?;
    account_data::delete(&server, &user_id, GLOBAL, &event_type).await?;
    Ok(Json(json!({})))
}

/// `DELETE /user/{userId}/rooms/{roomId}/account_data/{type}`
/// <https://github.com/matrix-org/matrix-spec-proposals/pull/3391>
async fn delete_of_room(State(server): State<Arc<Server>>, request: UntypedClient) -> Result<Json<Value>> {
    let user_id: OwnedUserId = request.part(0)?;
    check_own(&request.sender.user_id, &user_id)?;
    let room_id: OwnedRoomId = request.part(1)?;
    let room = account_data::room_of(&server.store.snapshot(), &user_id, &room_id)?;
    account_data::delete(&server, &user_id, room, &request.part::<String>(2)?).await?;
    Ok(Json(json!({})))
}

/// What a client wants kept. ruma takes an empty body for an empty object, and that would delete what there is.
fn content<'a, T>(raw: &[u8], data: &'a Raw<T>) -> Result<&'a str> {
    match raw.is_empty() {
        true => Err(Error::refused(ErrorKind::NotJson, "The body is empty")),
        false => Ok(data.json().get()),
    }
}

fn raw<T>(content: String) -> Result<Raw<T>> {
    Ok(Raw::from_json(RawValue::from_string(content).map_err(Error::internal)?))
}

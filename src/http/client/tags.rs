//! The labels that users put on their rooms.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::tag::{create_tag, delete_tag, get_tags};
use serde_json::{Value, json};

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Json, Matrix, json_object},
    },
    user::{account_data, account_data::check_own, tags},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_tags::v3::Request, _, _>(list))
        .merge(endpoint::<create_tag::v3::Request, _, _>(put))
        .merge(endpoint::<delete_tag::v3::Request, _, _>(delete))
}

/// `GET /user/{userId}/rooms/{roomId}/tags`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridroomsroomidtags>
async fn list(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_tags::v3::Request>,
) -> Result<Json<Value>> {
    check_own(&sender.user_id, &body.user_id)?;
    let tags = server
        .read(move |snapshot| {
            let room = account_data::room_of(snapshot, &body.user_id, &body.room_id)?;
            tags::list(snapshot, &body.user_id, room)
        })
        .await?;
    // ruma's type knows nothing but the order of a tag.
    Ok(Json(json!({ "tags": tags })))
}

/// `PUT /user/{userId}/rooms/{roomId}/tags/{tag}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag>
async fn put(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<create_tag::v3::Request>,
) -> Result<Matrix<create_tag::v3::Response>> {
    check_own(&sender.user_id, &body.user_id)?;
    let room = account_data::room_of(&server.store.snapshot(), &body.user_id, &body.room_id)?;
    tags::put(&server, &body.user_id, room, body.tag, Value::Object(json_object(&raw)?)).await?;
    Ok(Matrix(create_tag::v3::Response::new()))
}

/// `DELETE /user/{userId}/rooms/{roomId}/tags/{tag}`
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag>
async fn delete(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<delete_tag::v3::Request>,
) -> Result<Matrix<delete_tag::v3::Response>> {
    check_own(&sender.user_id, &body.user_id)?;
    let room = account_data::room_of(&server.store.snapshot(), &body.user_id, &body.room_id)?;
    tags::delete(&server, &body.user_id, room, body.tag).await?;
    Ok(Matrix(delete_tag::v3::Response::new()))
}

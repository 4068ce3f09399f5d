//! Who is typing.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State};
use ruma::{OwnedRoomId, api::client::typing::create_typing_event};
use serde_json::Value;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Loose, Matrix, json_object},
    },
    room::typing,
    user::presence,
};

/// How long somebody types who does not say. Source: our choice; the specification recommends 20 to 30 seconds to
/// clients.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<create_typing_event::v3::Request, _, _>(set))
}

/// `PUT /rooms/{roomId}/typing/{userId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidtypinguserid>
async fn set(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<Loose<create_typing_event::v3::Request>>,
) -> Result<Matrix<create_typing_event::v3::Response>> {
    let [room_id, user_id] = body.path.as_slice() else { return Err(Error::internal("the path has two parameters")) };
    if sender.user_id != *user_id {
        return Err(Error::forbidden("You can't type for somebody else"));
    }
    let room_id = OwnedRoomId::try_from(room_id.as_str()).map_err(|_| Error::invalid_param("That is no room id"))?;
    // ruma wants a timeout, which the specification leaves optional.
    let body = json_object(&raw)?;
    let timeout = match body.get("typing") {
        Some(Value::Bool(true)) => Some(timeout(body.get("timeout"))?),
        Some(Value::Bool(false)) => None,
        Some(_) => return Err(Error::bad_json("`typing` must be true or false")),
        None => return Err(Error::missing_param("`typing` is missing")),
    };
    typing::set(&server, &sender.user_id, &room_id, timeout).await?;
    presence::active(&server, &sender.user_id, &sender.device_id);
    Ok(Matrix(create_typing_event::v3::Response::new()))
}

fn timeout(given: Option<&Value>) -> Result<Duration> {
    let Some(given) = given else { return Ok(DEFAULT_TIMEOUT) };
    given
        .as_u64()
        .map(Duration::from_millis)
        .ok_or_else(|| Error::bad_json("`timeout` must be a number of milliseconds"))
}

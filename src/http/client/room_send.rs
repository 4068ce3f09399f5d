//! Sending events to rooms.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
    routing::put,
};
use ruma::{
    MilliSecondsSinceUnixEpoch,
    api::{
        client::{
            delayed_events::{delayed_message_event, delayed_state_event},
            message::send_message_event,
            state::send_state_event,
        },
        error::ErrorKind,
    },
};

use super::delayed_events::{Asked, asked_in};
use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Checked, GuestClient, Matrix},
    },
    room::{
        delayed::{self, NewEvent},
        send::{self, Options},
    },
    user::{presence, session::Caller},
};

pub fn router() -> Router<Arc<Server>> {
    let without_key = ["r0", "v3"].into_iter().fold(Router::new(), |all, version| {
        // ruma knows the path with a state key only; without one it is empty.
        let path = format!("/_matrix/client/{version}/rooms/{{room_id}}/state/{{event_type}}");
        all.route(&format!("{path}/"), put(state_event)).route(&path, put(state_event))
    });
    without_key.merge(endpoint::<send_message_event::v3::Request, _, _>(message_event)).merge(endpoint::<
        send_state_event::v3::Request,
        _,
        _,
    >(state_event))
}

/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid>
async fn message_event(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    Checked(Path((_, event_type, _))): Checked<Path<(String, String, String)>>, // ruma takes some types for others
    GuestClient { sender, body, raw }: GuestClient<send_message_event::v3::Request>,
) -> Result<Response> {
    server.limits.message(&sender)?;
    let Asked { delay, sticky_ms } = asked_in(query.as_deref())?;
    if let Some(delay) = delay {
        let content = String::from_utf8_lossy(&raw).into_owned();
        let txn_id = Some(body.txn_id.to_string());
        let new = NewEvent { event_type, state_key: None, content, delay, txn_id, sticky_ms };
        let delay_id = delayed::schedule(&server, &sender, &body.room_id, new).await?;
        return Ok(Matrix(delayed_message_event::unstable::Response::new(delay_id)).into_response());
    }
    if raw.is_empty() {
        return Err(Error::refused(ErrorKind::NotJson, "The body is empty")); // ruma takes that for `{}`
    }
    let content = body.body.into_json();
    let options = Options { at: timestamp(&sender, body.timestamp), sticky_ms };
    let txn_id = body.txn_id.as_str();
    let event_id = send::message_with(&server, &sender, &body.room_id, event_type, content, txn_id, options).await?;
    presence::active(&server, &sender.user_id, &sender.device_id);
    Ok(Matrix(send_message_event::v3::Response::new(event_id)).into_response())
}

/// `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey>
async fn state_event(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    GuestClient { sender, body, raw }: GuestClient<send_state_event::v3::Request>,
) -> Result<Response> {
    server.limits.message(&sender)?;
    let Asked { delay, sticky_ms } = asked_in(query.as_deref())?;
    if let Some(delay) = delay {
        let content = String::from_utf8_lossy(&raw).into_owned();
        let (event_type, state_key) = (body.event_type.to_string(), Some(body.state_key));
        let new = NewEvent { event_type, state_key, content, delay, txn_id: None, sticky_ms };
        let delay_id = delayed::schedule(&server, &sender, &body.room_id, new).await?;
        return Ok(Matrix(delayed_state_event::unstable::Response::new(delay_id)).into_response());
    }
    let content = body.body.into_json();
    let options = Options { at: timestamp(&sender, body.timestamp), sticky_ms };
    let (user, key) = (&sender.user_id, body.state_key);
    let event_id = send::state_with(&server, user, &body.room_id, body.event_type, key, content, options).await?;
    Ok(Matrix(send_state_event::v3::Response::new(event_id)).into_response())
}

/// When an event happened, if an application service says so; nobody else is believed.
///
/// <https://spec.matrix.org/v1.19/application-service-api/#timestamp-massaging>
fn timestamp(sender: &Caller, given: Option<MilliSecondsSinceUnixEpoch>) -> Option<MilliSecondsSinceUnixEpoch> {
    given.filter(|_| sender.appservice.is_some())
}

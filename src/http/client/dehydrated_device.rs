//! Dehydrated devices: <https://github.com/matrix-org/matrix-spec-proposals/pull/3814>

use std::sync::Arc;

use axum::{Router, extract::State, routing::get as get_route};
use ruma::{
    OwnedDeviceId,
    api::client::dehydrated_device::{
        delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix, UntypedClient, from_query},
    },
    store::StreamPos,
    user::{
        dehydrated::{self, New},
        keys::Upload,
    },
};

const DEFAULT_LIMIT: usize = 100;

pub fn router() -> Router<Arc<Server>> {
    let events = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events";
    Router::new()
        .merge(endpoint::<put_dehydrated_device::unstable::Request, _, _>(put))
        .merge(endpoint::<get_dehydrated_device::unstable::Request, _, _>(get))
        .merge(endpoint::<delete_dehydrated_device::unstable::Request, _, _>(delete))
        .merge(endpoint::<get_events::unstable::Request, _, _>(post_events))
        .route(events, get_route(get_events))
}

/// `PUT /dehydrated_device`
async fn put(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<put_dehydrated_device::unstable::Request>,
) -> Result<Matrix<put_dehydrated_device::unstable::Response>> {
    server.limits.upload(&sender)?;
    let new = New {
        device_id: body.device_id.clone(),
        display_name: body.initial_device_display_name,
        data: body.device_data.json().get().to_owned(),
        keys: Upload {
            device_keys: Some(body.device_keys),
            one_time_keys: body.one_time_keys,
            fallback_keys: body.fallback_keys,
        },
    };
    dehydrated::put(&server, sender, new).await?;
    Ok(Matrix(put_dehydrated_device::unstable::Response::new(body.device_id)))
}

/// `GET /dehydrated_device`
async fn get(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<get_dehydrated_device::unstable::Request>,
) -> Result<Matrix<get_dehydrated_device::unstable::Response>> {
    let found = dehydrated::get(&server.store.snapshot(), &sender.user_id)?;
    let data = Raw::from_json_string(found.data).map_err(Error::internal)?;
    Ok(Matrix(get_dehydrated_device::unstable::Response::new(found.device_id, data)))
}

/// `DELETE /dehydrated_device`
async fn delete(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<delete_dehydrated_device::unstable::Request>,
) -> Result<Matrix<delete_dehydrated_device::unstable::Response>> {
    let device_id = dehydrated::delete(&server, sender.user_id).await?;
    Ok(Matrix(delete_dehydrated_device::unstable::Response::new(device_id)))
}

#[derive(Serialize)]
struct Events {
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `POST /dehydrated_device/{deviceId}/events`, as older clients know it: they ask with each `next_batch` until there is
/// no event, so that is never left out.
async fn post_events(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_events::unstable::Request>,
) -> Result<Json<Events>> {
    let after = place(body.next_batch.as_deref())?;
    let page = dehydrated::events(&server, sender.user_id, body.device_id, after, DEFAULT_LIMIT).await?;
    let next_batch = Some(page.last.to_string());
    Ok(Json(Events { events: page.events.into_iter().map(|event| event.0).collect(), next_batch }))
}

#[derive(Deserialize)]
struct Page {
    from: Option<String>,
    limit: Option<usize>,
}

/// `GET /dehydrated_device/{deviceId}/events`
async fn get_events(State(server): State<Arc<Server>>, request: UntypedClient) -> Result<Json<Events>> {
    let query: Page = from_query(request.query.as_deref())?;
    let (after, limit) = (place(query.from.as_deref())?, query.limit.unwrap_or(DEFAULT_LIMIT));
    let device_id = OwnedDeviceId::from(request.part::<String>(0)?);
    let page = dehydrated::events(&server, request.sender.user_id, device_id, after, limit).await?;
    let next_batch = (!page.is_last).then(|| page.last.to_string());
    Ok(Json(Events { events: page.events.into_iter().map(|event| event.0).collect(), next_batch }))
}

fn place(token: Option<&str>) -> Result<StreamPos> {
    let Some(token) = token else { return Ok(StreamPos(0)) };
    let is_number = token.bytes().all(|byte| byte.is_ascii_digit());
    let pos = token.parse().ok().filter(|_| is_number).filter(|pos| *pos < u64::MAX);
    pos.map(StreamPos).ok_or_else(|| Error::invalid_param("That is not a token of this server"))
}

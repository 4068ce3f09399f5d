//! Syncing: <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    response::Response,
};
use ruma::api::client::sync::sync_events;
use serde::Deserialize;

use super::streamed::replied;
use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{GuestClient, from_query},
    },
    sync::{self, Request, StateForm},
    user::{filter::Filter, presence},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<sync_events::v3::Request, _, _>(sync_events))
}

/// `GET /sync`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
async fn sync_events(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    GuestClient { sender, body, .. }: GuestClient<sync_events::v3::Request>,
) -> Result<Response> {
    let more: More = from_query(query.as_deref())?;
    let filter = more.filter.map(|named| server.filters.load(&server.store, &sender.user_id, &named)).transpose()?;
    let Filter { definition, profile_fields, hash, .. } = filter.unwrap_or_default();
    let request = Request {
        since: body.since.as_deref().map(str::parse).transpose()?,
        filter: definition,
        filter_hash: hash,
        profile_fields,
        full_state: body.full_state,
        state_form: match (body.use_state_after, more.use_proposed_state_after) {
            (true, _) => StateForm::After,
            (false, true) => StateForm::UnstableAfter,
            (false, false) => StateForm::Before,
        },
        timeout: body.timeout.unwrap_or_default(),
        set_presence: presence::State::of(&body.set_presence)?,
        user_id: sender.user_id,
        device_id: sender.device_id,
        token: sender.token,
    };
    Ok(replied(sync::sync(&server, request).await?))
}

/// What ruma's type for the request lacks, in whole or in part.
#[derive(Deserialize)]
struct More {
    /// One that the user keeps, or one in JSON.
    filter: Option<String>,
    /// Clients that know `use_state_after` as a proposal only look for the answer under the proposal's name.
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    use_proposed_state_after: bool,
}

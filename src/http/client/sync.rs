//! Syncing: <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    response::Response,
};
use ruma::{api::client::sync::sync_events, presence::PresenceState};
use serde::Deserialize;

use super::streamed::replied;
use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{GuestClient, Loose, from_query},
    },
    sync::{self, Request, StateForm},
    user::{filter::Filter, presence, session::Caller},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<Loose<sync_events::v3::Request>, _, _>(sync_events))
}

/// `GET /sync`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync>
async fn sync_events(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    GuestClient { sender, .. }: GuestClient<Loose<sync_events::v3::Request>>,
) -> Result<Response> {
    let request = asked(&server, sender, query.as_deref())?;
    Ok(replied(sync::sync(&server, request).await?))
}

/// A request as its query says it. Not by ruma's type: that has a whole filter in it, which each client that waits would hold,
/// and lacks what clients ask for as a proposal.
#[derive(Deserialize)]
struct Query {
    /// One that the user keeps, or one in JSON.
    filter: Option<String>,
    since: Option<String>,
    #[serde(default)]
    full_state: bool,
    #[serde(default)]
    set_presence: PresenceState,
    /// Milliseconds.
    timeout: Option<u64>,
    #[serde(default)]
    use_state_after: bool,
    /// Clients that know `use_state_after` as a proposal only look for the answer under the proposal's name.
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    use_proposed_state_after: bool,
}

fn asked(server: &Server, sender: Caller, query: Option<&str>) -> Result<Request> {
    let query: Query = from_query(query)?;
    let filter = query.filter.map(|named| server.filters.load(&server.store, &sender.user_id, &named)).transpose()?;
    let Filter { definition, profile_fields, hash, .. } = filter.unwrap_or_default();
    Ok(Request {
        since: query.since.as_deref().map(str::parse).transpose()?,
        filter: definition,
        filter_hash: hash,
        profile_fields,
        full_state: query.full_state,
        state_form: match (query.use_state_after, query.use_proposed_state_after) {
            (true, _) => StateForm::After,
            (false, true) => StateForm::UnstableAfter,
            (false, false) => StateForm::Before,
        },
        timeout: Duration::from_millis(query.timeout.unwrap_or_default()),
        set_presence: presence::State::of(&query.set_presence)?,
        user_id: sender.user_id,
        device_id: sender.device_id,
        token: sender.token,
    })
}

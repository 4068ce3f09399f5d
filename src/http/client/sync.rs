//! Syncing: <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    response::Response,
};
use ruma::{api::client::sync::sync_events, exports::serde_html_form};
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
    user::{filter::Filter, presence, session::Caller},
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
    let Filter { definition, profile_fields, hash, .. } = filter_of(&server, &sender, query.as_deref())?;
    let request = Request {
        since: body.since.as_deref().map(str::parse).transpose()?,
        filter: definition,
        filter_hash: hash,
        profile_fields,
        full_state: body.full_state,
        state_form: state_form(body.use_state_after, query.as_deref().unwrap_or_default()),
        timeout: body.timeout.unwrap_or_default(),
        set_presence: presence::State::of(&body.set_presence)?,
        user_id: sender.user_id,
        device_id: sender.device_id,
        token: sender.token,
    };
    Ok(replied(sync::sync(&server, request).await?))
}

/// The filter that the query names, or has in it. ruma's type for it lacks a part.
fn filter_of(server: &Server, sender: &Caller, query: Option<&str>) -> Result<Filter> {
    #[derive(Deserialize)]
    struct Named {
        filter: Option<String>,
    }
    match from_query::<Named>(query)?.filter {
        Some(named) => server.filters.load(&server.store, &sender.user_id, &named),
        None => Ok(Filter::default()),
    }
}

/// Clients that know `use_state_after` as a proposal only look for the answer under the proposal's name.
fn state_form(is_after: bool, query: &str) -> StateForm {
    let pairs = || serde_html_form::from_str::<Vec<(String, String)>>(query).unwrap_or_default();
    let asks_for_proposal =
        || pairs().iter().any(|(key, value)| key == "org.matrix.msc4222.use_state_after" && value == "true");
    match is_after {
        true => StateForm::After,
        false if asks_for_proposal() => StateForm::UnstableAfter,
        false => StateForm::Before,
    }
}

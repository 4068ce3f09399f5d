//! Sliding sync: <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md>

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use http::header;
use ruma::{api::client::sync::sync_events, exports::serde_html_form, presence::PresenceState};
use serde::Deserialize;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        error::unreadable,
        extract::{Client, Loose},
    },
    sync::sliding::{self, Asked, Body},
    user::presence,
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Loose<sync_events::v5::Request>, _, _>(sync)
}

#[derive(Default, Deserialize)]
struct Query {
    pos: Option<String>,
    /// Milliseconds; the client is answered at once without it.
    timeout: Option<u64>,
    set_presence: Option<PresenceState>,
}

/// `POST /unstable/org.matrix.simplified_msc3575/sync`
async fn sync(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
    Client { sender, raw, .. }: Client<Loose<sync_events::v5::Request>>,
) -> Result<Response> {
    let query: Query = serde_html_form::from_str(query.as_deref().unwrap_or_default())
        .map_err(|e| Error::invalid_param(format!("A query parameter is wrong: {e}")))?;
    let body: Body = serde_json::from_slice(&raw).map_err(|e| unreadable(e.into()))?;
    let pos = query.pos.as_ref().or(body.pos.as_ref()).map(|pos| pos.parse()).transpose()?;
    let asked = Asked::new(
        sender,
        pos,
        Duration::from_millis(query.timeout.or(body.timeout).unwrap_or_default()),
        presence::State::of(&query.set_presence.or(body.set_presence.clone()).unwrap_or_default())?,
        body,
    )?;
    let body = sliding::sync(&server, asked).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

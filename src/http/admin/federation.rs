//! How it goes with other servers:
//! <https://element-hq.github.io/synapse/latest/usage/administration/admin_api/federation.html>
//!
//! Beside the fields of Synapse there are `queue_length`, `last_successful_ts`, `retry_at_ts` and `last_failure`.

use std::{cmp::Ordering, sync::Arc};

use axum::{
    Router,
    extract::{Path, Query, State},
    routing::{get, post},
};
use ruma::{OwnedServerName, ServerName, api::error::ErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Server,
    error::{Error, Result},
    federation::status::{self, Status},
    http::extract::{Admin, Checked, Json},
};

const PATH: &str = "/_synapse/admin/v1/federation/destinations";

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .route(PATH, get(list))
        .route(&format!("{PATH}/{{destination}}"), get(one))
        .route(&format!("{PATH}/{{destination}}/rooms"), get(rooms))
        .route(&format!("{PATH}/{{destination}}/reset_connection"), post(reset_connection))
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    #[serde(default)]
    dir: Direction,
    #[serde(default)]
    order_by: Order,
    /// Only servers whose names contain this.
    #[serde(default)]
    destination: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Direction {
    #[default]
    #[serde(rename = "f")]
    Forward,
    #[serde(rename = "b")]
    Backward,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    #[default]
    Destination,
    RetryLastTs,
    RetryInterval,
    FailureTs,
    LastSuccessfulStreamOrdering,
}

impl Order {
    fn compare(self, a: &Status, b: &Status) -> Ordering {
        let by = |key: fn(&Status) -> Option<u64>| key(a).cmp(&key(b)).then_with(|| a.server.cmp(&b.server));
        match self {
            Self::Destination => a.server.cmp(&b.server),
            Self::RetryLastTs => by(tried_ms),
            Self::RetryInterval => by(interval_ms),
            Self::FailureTs => by(|status| status.failing.as_ref().map(|failing| failing.since_ms)),
            Self::LastSuccessfulStreamOrdering => by(|status| status.delivered.map(|delivery| delivery.pos.0)),
        }
    }
}

impl Page {
    /// One page of `all`, which are in order, as the answer's `key`.
    fn answer<T>(&self, key: &str, mut all: Vec<T>, show: impl Fn(T) -> Value) -> Value {
        if self.dir == Direction::Backward {
            all.reverse();
        }
        let total = all.len();
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
        let shown: Vec<_> = all.into_iter().skip(self.from).take(limit).map(show).collect();
        let next = self.from.saturating_add(shown.len());
        let is_more = next < total && !shown.is_empty();
        let mut answer = json!({ key: shown, "total": total });
        if is_more {
            answer["next_token"] = next.to_string().into();
        }
        answer
    }
}

/// `GET /_synapse/admin/v1/federation/destinations`
async fn list(
    State(server): State<Arc<Server>>,
    Checked(Query(page)): Checked<Query<Page>>,
    _: Admin,
) -> Result<Json<Value>> {
    let work = move |server: &Server| {
        let mut all = status::list(&server.store.snapshot())?;
        all.retain(|status| status.server.as_str().contains(&page.destination));
        all = all.into_iter().map(|status| status.known_to(server)).collect();
        all.sort_by(|a, b| page.order_by.compare(a, b));
        Ok(Json(page.answer("destinations", all, |status| show(&status))))
    };
    server.blocking(work).await
}

/// `GET /_synapse/admin/v1/federation/destinations/{destination}`
async fn one(
    State(server): State<Arc<Server>>,
    Checked(Path(name)): Checked<Path<OwnedServerName>>,
    _: Admin,
) -> Result<Json<Value>> {
    server.blocking(move |server| find(server, &name).map(|status| Json(show(&status)))).await
}

/// `GET /_synapse/admin/v1/federation/destinations/{destination}/rooms`
async fn rooms(
    State(server): State<Arc<Server>>,
    Checked(Path(name)): Checked<Path<OwnedServerName>>,
    Checked(Query(page)): Checked<Query<Page>>,
    _: Admin,
) -> Result<Json<Value>> {
    let work = move |server: &Server| {
        find(server, &name)?;
        let mut rooms = status::rooms(&server.store.snapshot(), &name)?;
        rooms.sort();
        let show = |(room_id, newest): (ruma::OwnedRoomId, crate::store::RoomPos)| json!({ "room_id": room_id, "stream_ordering": newest.0 });
        Ok(Json(page.answer("rooms", rooms, show)))
    };
    server.blocking(work).await
}

/// `POST /_synapse/admin/v1/federation/destinations/{destination}/reset_connection`
async fn reset_connection(
    State(server): State<Arc<Server>>,
    Checked(Path(name)): Checked<Path<OwnedServerName>>,
    _: Admin,
) -> Result<Json<Value>> {
    let asked = name.clone();
    let status = server.blocking(move |server| find(server, &asked)).await?;
    if status.failing.is_none() && status.waiting == 0 {
        let message = "The retry timing does not need to be reset for this destination.";
        return Err(Error::refused(ErrorKind::Unknown, message).with_status(http::StatusCode::BAD_REQUEST));
    }
    status::retry(&server, &name).await?;
    Ok(Json(json!({})))
}

fn find(server: &Server, name: &ServerName) -> Result<Status> {
    let status = status::get(&server.store.snapshot(), name)?;
    Ok(status.ok_or_else(|| Error::not_found("Unknown destination"))?.known_to(server))
}

fn show(status: &Status) -> Value {
    let failing = status.failing.as_ref();
    json!({
        "destination": status.server,
        "retry_last_ts": tried_ms(status).unwrap_or_default(),
        "retry_interval": interval_ms(status).unwrap_or_default(),
        "failure_ts": failing.map(|failing| failing.since_ms),
        "last_successful_stream_ordering": status.delivered.map(|delivery| delivery.pos.0),
        "last_successful_ts": status.delivered.map(|delivery| delivery.at_ms),
        "queue_length": status.waiting,
        "retry_at_ts": failing.map(|failing| failing.retry_at_ms),
        "last_failure": failing.map(|failing| &failing.reason),
    })
}

/// How long the server is left alone after its last failure.
fn interval_ms(status: &Status) -> Option<u64> {
    status.failing.as_ref().map(|failing| failing.retry_at_ms.saturating_sub(failing.tried_ms))
}

/// When it last failed.
fn tried_ms(status: &Status) -> Option<u64> {
    status.failing.as_ref().map(|failing| failing.tried_ms)
}

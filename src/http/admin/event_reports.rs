//! What users reported: <https://element-hq.github.io/synapse/latest/admin_api/event_reports.html>
//!
//! Reports of rooms and of users are in lists of their own, of the same form: `room_reports`, `user_reports`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Query, State},
    routing::get,
};
use ruma::events::StateEventType;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Server,
    error::{Error, Result},
    http::extract::{Admin, Checked, Json},
    reports::{self, Report, Subject},
    room::View,
    store::{Snapshot, StreamPos},
};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .route("/_synapse/admin/v1/event_reports", get(events))
        .route("/_synapse/admin/v1/event_reports/{id}", get(one))
        .route("/_synapse/admin/v1/room_reports", get(rooms))
        .route("/_synapse/admin/v1/user_reports", get(users))
}

#[derive(Deserialize)]
struct Page {
    from: Option<usize>,
    limit: Option<usize>,
    /// `b`, the newest first, or `f`.
    dir: Option<String>,
    user_id: Option<String>,
    room_id: Option<String>,
}

async fn events(
    State(server): State<Arc<Server>>,
    Checked(Query(page)): Checked<Query<Page>>,
    _: Admin,
) -> Result<Json<Value>> {
    list(server, page, "event_reports", |subject| matches!(subject, Subject::Event { .. })).await
}

async fn rooms(
    State(server): State<Arc<Server>>,
    Checked(Query(page)): Checked<Query<Page>>,
    _: Admin,
) -> Result<Json<Value>> {
    list(server, page, "room_reports", |subject| matches!(subject, Subject::Room(_))).await
}

async fn users(
    State(server): State<Arc<Server>>,
    Checked(Query(page)): Checked<Query<Page>>,
    _: Admin,
) -> Result<Json<Value>> {
    list(server, page, "user_reports", |subject| matches!(subject, Subject::User(_))).await
}

async fn list(
    server: Arc<Server>,
    page: Page,
    key: &'static str,
    is_wanted: fn(&Subject) -> bool,
) -> Result<Json<Value>> {
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let mut all = reports::list(&snapshot)?;
        all.retain(|(_, report)| is_wanted(&report.subject) && page.wants(report));
        match page.dir.as_deref() {
            None | Some("b") => {}
            Some("f") => all.reverse(),
            Some(_) => return Err(Error::invalid_param("`dir` is neither `f` nor `b`")),
        }
        let from = page.from.unwrap_or(0);
        let limit = page.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
        let shown = all.iter().skip(from).take(limit);
        let shown = shown.map(|(id, report)| show(server, &snapshot, *id, report)).collect::<Result<Vec<_>>>()?;
        let next = from.saturating_add(shown.len());
        let mut answer = json!({ key: shown, "total": all.len() });
        if next < all.len() {
            answer["next_token"] = next.into();
        }
        Ok(answer)
    };
    server.blocking(work).await.map(Json)
}

impl Page {
    fn wants(&self, report: &Report) -> bool {
        let room = match &report.subject {
            Subject::Event { room_id, .. } | Subject::Room(room_id) => Some(room_id.as_str()),
            Subject::User(_) => None,
        };
        self.user_id.as_ref().is_none_or(|part| report.reporter.as_str().contains(part.as_str()))
            && self.room_id.as_ref().is_none_or(|part| room.is_some_and(|room| room.contains(part.as_str())))
    }
}

async fn one(
    State(server): State<Arc<Server>>,
    Checked(Path(id)): Checked<Path<u64>>,
    _: Admin,
) -> Result<Json<Value>> {
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let report = snapshot.get::<reports::Reports>(&StreamPos(id))?;
        let report = report.ok_or_else(|| Error::not_found("There is no such report"))?;
        let mut shown = show(server, &snapshot, StreamPos(id), &report)?;
        if let Subject::Event { room_id, event_id, .. } = &report.subject
            && let Some(view) = View::open(&server.rooms, &snapshot, room_id)?
            && let Some(event) = view.event_by_id(event_id)?
        {
            let json = event.view().federation_json(view.room_id(), view.rules);
            shown.insert("event_json".to_owned(), serde_json::from_slice(&json).map_err(Error::internal)?);
        }
        Ok(Value::Object(shown))
    };
    server.blocking(work).await.map(Json)
}

fn show(server: &Server, snapshot: &Snapshot<'_>, id: StreamPos, report: &Report) -> Result<Map<String, Value>> {
    let mut shown = Map::new();
    let mut put = |key: &str, value: Value| shown.insert(key.to_owned(), value);
    put("id", id.0.into());
    put("received_ts", report.at_ms.into());
    put("user_id", report.reporter.as_str().into());
    put("reason", report.reason.clone().into());
    let room_id = match &report.subject {
        Subject::Event { room_id, event_id, sender } => {
            put("event_id", event_id.as_str().into());
            put("sender", sender.as_str().into());
            put("score", Value::Null); // clients gave one before v1.18
            Some(room_id)
        }
        Subject::Room(room_id) => Some(room_id),
        Subject::User(user_id) => {
            put("target_user_id", user_id.as_str().into());
            None
        }
    };
    if let Some(room_id) = room_id {
        put("room_id", room_id.as_str().into());
        let view = View::open(&server.rooms, snapshot, room_id)?;
        let text = |event_type: StateEventType, key: &str| -> Result<Value> {
            let Some(view) = &view else { return Ok(Value::Null) };
            let content: Option<Value> = view.state_content(view.current_state(), &event_type, "")?;
            Ok(content.and_then(|content| content.get(key).filter(|text| text.is_string()).cloned()).into())
        };
        put("name", text(StateEventType::RoomName, "name")?);
        put("canonical_alias", text(StateEventType::RoomCanonicalAlias, "alias")?);
    }
    Ok(shown)
}

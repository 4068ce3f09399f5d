//! Where two devices meet: <https://github.com/matrix-org/matrix-spec-proposals/pull/4388>, and the form of
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4108> that clients use today.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ruma::http_headers::system_time_to_http_date;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Server,
    config::RendezvousFor,
    error::{Error, Result},
    http::extract::{Checked, Json, MaybeSender, PublicJson},
    rendezvous::{self, Changed, Session},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .route(PATH, get(discover).post(create))
        .route(&format!("{PATH}/{{id}}"), get(read).put(update).delete(delete))
        .route(LEGACY, post(legacy_create))
        .route(&format!("{LEGACY}/{{id}}"), get(legacy_read).put(legacy_update).delete(legacy_delete))
}

const PATH: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
const LEGACY: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";

#[derive(Deserialize)]
struct Creation {
    data: String,
}

#[derive(Deserialize)]
struct Update {
    sequence_token: String,
    data: String,
}

/// `GET /rendezvous`
async fn discover(State(server): State<Arc<Server>>, MaybeSender { sender, .. }: MaybeSender) -> Result<Json<Value>> {
    check_enabled(&server)?;
    Ok(Json(json!({ "create_available": may_create(&server, sender.is_some()) })))
}

/// `POST /rendezvous`
async fn create(
    State(server): State<Arc<Server>>,
    MaybeSender { sender, address }: MaybeSender,
    PublicJson { body, .. }: PublicJson<Creation>,
) -> Result<Json<Value>> {
    check_enabled(&server)?;
    if !may_create(&server, sender.is_some()) {
        return Err(Error::forbidden("Only users of this server can begin a rendezvous"));
    }
    let (id, session) = rendezvous::create(&server, address, body.data)?;
    let expires_in_ms = remaining_ms(&server, &session);
    Ok(Json(json!({ "id": id, "sequence_token": session.token, "expires_in_ms": expires_in_ms })))
}

/// `GET /rendezvous/{id}`
async fn read(
    State(server): State<Arc<Server>>,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    check_enabled(&server)?;
    check_no_navigation(&headers)?;
    let session = rendezvous::get(&server, &id)?;
    let expires_in_ms = remaining_ms(&server, &session);
    Ok(Json(json!({ "data": session.content, "sequence_token": session.token, "expires_in_ms": expires_in_ms })))
}

/// `PUT /rendezvous/{id}`
async fn update(
    State(server): State<Arc<Server>>,
    Checked(Path(id)): Checked<Path<String>>,
    PublicJson { body, .. }: PublicJson<Update>,
) -> Result<Json<Value>> {
    check_enabled(&server)?;
    let data = body.data.clone();
    let session = match rendezvous::put(&server, &id, &body.sequence_token, body.data)? {
        Changed::Done(session) => session,
        // The client repeats a request whose answer it did not get.
        Changed::Conflict(session) if session.content == data => session,
        Changed::Conflict(_) => {
            let error = Error::custom("IO_ELEMENT_MSC4388_CONCURRENT_WRITE", "Something else lies there by now");
            return Err(error.with_status(StatusCode::CONFLICT));
        }
    };
    Ok(Json(json!({ "sequence_token": session.token })))
}

/// `DELETE /rendezvous/{id}`
async fn delete(State(server): State<Arc<Server>>, Checked(Path(id)): Checked<Path<String>>) -> Result<Json<Value>> {
    check_enabled(&server)?;
    rendezvous::delete(&server, &id)?;
    Ok(Json(json!({})))
}

/// `POST /rendezvous` of MSC4108: for everybody, or not at all, because clients send no token there.
async fn legacy_create(
    State(server): State<Arc<Server>>,
    MaybeSender { address, .. }: MaybeSender,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response> {
    check_enabled(&server)?;
    if !may_create(&server, false) {
        return Err(Error::forbidden("This server does not let everybody begin a rendezvous"));
    }
    let base_url = server.config.well_known.client.as_deref();
    let base_url = base_url.ok_or_else(|| Error::unrecognized("This server does not know its own URL"))?;
    let content = text(&headers, body)?;
    let (id, session) = rendezvous::create(&server, address, content)?;
    let body = Json(json!({ "url": format!("{}{LEGACY}/{id}", base_url.trim_end_matches('/')) }));
    Ok((StatusCode::CREATED, session_headers(&session)?, body).into_response())
}

/// `GET` of the URL that `POST` gave; the two below as well.
async fn legacy_read(
    State(server): State<Arc<Server>>,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Result<Response> {
    check_enabled(&server)?;
    check_no_navigation(&headers)?;
    let session = rendezvous::get(&server, &id)?;
    let answer_headers = session_headers(&session)?;
    if headers.get(header::IF_NONE_MATCH) == Some(&answer_headers[header::ETAG]) {
        return Ok((StatusCode::NOT_MODIFIED, answer_headers).into_response());
    }
    let form = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((answer_headers, form, session.content).into_response())
}

/// `PUT`
async fn legacy_update(
    State(server): State<Arc<Server>>,
    Checked(Path(id)): Checked<Path<String>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response> {
    check_enabled(&server)?;
    let etag = headers.get(header::IF_MATCH).ok_or_else(|| Error::missing_param("If-Match is missing"))?;
    let token = etag.to_str().ok().and_then(|etag| etag.strip_prefix('"')?.strip_suffix('"'));
    let token = token.filter(|token| !token.contains(['"', ',']));
    let token = token.ok_or_else(|| Error::invalid_param("If-Match is not one strong ETag"))?;
    match rendezvous::put(&server, &id, token, text(&headers, body)?)? {
        Changed::Done(session) => Ok((StatusCode::ACCEPTED, session_headers(&session)?).into_response()),
        Changed::Conflict(session) => {
            let error = json!({
                "errcode": "M_UNKNOWN",
                "org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE",
                "error": "Something else lies there by now",
            });
            Ok((StatusCode::PRECONDITION_FAILED, session_headers(&session)?, Json(error)).into_response())
        }
    }
}

/// `DELETE`
async fn legacy_delete(
    State(server): State<Arc<Server>>,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<StatusCode> {
    check_enabled(&server)?;
    rendezvous::delete(&server, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_enabled(server: &Server) -> Result<()> {
    match server.config.rendezvous {
        RendezvousFor::Nobody => Err(Error::unrecognized("This server has no rendezvous")),
        RendezvousFor::Users | RendezvousFor::Anyone => Ok(()),
    }
}

fn may_create(server: &Server, is_user: bool) -> bool {
    match server.config.rendezvous {
        RendezvousFor::Nobody => false,
        RendezvousFor::Users => is_user,
        RendezvousFor::Anyone => true,
    }
}

/// Nobody shall come here by a link and see what a stranger wrote.
fn check_no_navigation(headers: &HeaderMap) -> Result<()> {
    let is = |name: &'static str, value: &str| headers.get(name).is_some_and(|header| header == value);
    if is("sec-fetch-mode", "navigate") || is("sec-fetch-dest", "document") {
        return Err(Error::forbidden("This is for clients, not to be looked at"));
    }
    Ok(())
}

/// The body of a request, which must be plain text.
fn text(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<String> {
    let header = |name: HeaderName| {
        let missing = || Error::missing_param(format!("{name} is missing"));
        headers.get(&name).and_then(|value| value.to_str().ok()).ok_or_else(missing)
    };
    header(header::CONTENT_LENGTH)?;
    let content_type = header(header::CONTENT_TYPE)?.split(';').next().unwrap_or_default();
    if !content_type.trim().eq_ignore_ascii_case("text/plain") {
        return Err(Error::invalid_param("Content-Type is not text/plain"));
    }
    // A body that can't be read is much too large, or its client is gone.
    let body = body.map_err(|_| rendezvous::too_large())?;
    String::from_utf8(body.into()).map_err(|_| Error::invalid_param("The body is not UTF-8"))
}

fn remaining_ms(server: &Server, session: &Session) -> u64 {
    session.expires_ms.saturating_sub(server.clock.now_ms())
}

fn session_headers(session: &Session) -> Result<HeaderMap> {
    let date = |ms: u64| {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
        let time = time.ok_or_else(|| Error::internal("a time that is none"))?;
        system_time_to_http_date(&time).map_err(Error::internal)
    };
    let etag = HeaderValue::try_from(format!("\"{}\"", session.token)).map_err(Error::internal)?;
    Ok(HeaderMap::from_iter([
        (header::ETAG, etag),
        (header::EXPIRES, date(session.expires_ms)?),
        (header::LAST_MODIFIED, date(session.modified_ms)?),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::PRAGMA, HeaderValue::from_static("no-cache")),
    ]))
}

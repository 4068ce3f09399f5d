//! The content repository, as clients and attackers meet it.

mod attacks;
mod downloads;
mod pending;
mod remote;
mod thumbnails;
mod uploads;

use std::{fs, path::Path};

use axum::body::Body;
use chappe::check;
use http::{HeaderMap, Method, Request, header};
use serde_json::Value;

use crate::support::{Answer, TestServer, User, query};

/// A request with any body and headers.
async fn send(user: &User, method: Method, path: &str, headers: &[(header::HeaderName, &str)], body: Body) -> Answer {
    let token = format!("Bearer {}", user.token);
    let mut request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, token);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    user.server.send(request.body(body).unwrap()).await
}

/// Uploads a file: the answer.
async fn try_upload(user: &User, bytes: &[u8], content_type: &str, file_name: Option<&str>) -> Answer {
    let query = file_name.map(|name| query(&[("filename", name)])).unwrap_or_default();
    let path = format!("/_matrix/media/v3/upload{query}");
    let length = bytes.len().to_string();
    let headers = [(header::CONTENT_TYPE, content_type), (header::CONTENT_LENGTH, &*length)];
    send(user, Method::POST, &path, &headers, bytes.to_vec().into()).await
}

/// Uploads a file: `SERVER/MEDIA_ID`.
async fn upload(user: &User, bytes: &[u8], content_type: &str) -> String {
    address(&try_upload(user, bytes, content_type, None).await.ok())
}

/// What follows `mxc://` in an answer.
#[track_caller]
fn address(answer: &Value) -> String {
    answer["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("a URI").to_owned()
}

async fn download(user: &User, address: &str) -> Answer {
    user.get(&format!("/v1/media/download/{address}")).await
}

#[track_caller]
fn header_of(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(&name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

/// How many files there are in the folder of the media, however deep; thumbnails excepted.
fn count_files(server: &TestServer) -> usize {
    fn count(folder: &Path) -> usize {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
    }
    let media = server.inside().store.path().join("media");
    count(&media.join("content")) + count(&media.join("unfinished"))
}

/// What `chappe check` finds.
async fn check(server: &TestServer) -> check::Report {
    let check = |server: &chappe::Server| Ok(check::check(&server.store, server.name())?);
    server.inside().blocking(check).await.unwrap()
}

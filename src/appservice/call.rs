//! Requests to services. Their addresses come from the administrator's files, so no network is out of bounds.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use reqwest::{Url, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Appservice;
use crate::{config::Config, outgoing::base::Base};

/// How long a service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Why a service gave no useful answer.
#[derive(Debug)]
pub enum Failure {
    /// It has no address.
    NoUrl,
    TimedOut,
    /// It can't be reached, or its answer can't be read.
    Connection(String),
    Status(StatusCode, String),
}

impl Failure {
    /// Whether the service has no such path. Where only what was asked for is not there, it says so in JSON.
    fn is_unknown_path(&self) -> bool {
        let Self::Status(StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, answer) = self else { return false };
        serde_json::from_str::<Value>(answer).map_or(true, |answer| answer["errcode"] == "M_UNRECOGNIZED")
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoUrl => f.write_str("it has no address"),
            Self::TimedOut => f.write_str("it did not answer in time"),
            Self::Connection(why) => f.write_str(why),
            Self::Status(status, _) => write!(f, "it answered {status}"),
        }
    }
}

/// Makes all requests to services.
pub struct Client {
    authorities: Option<PathBuf>,
    /// Made when first needed: reading the system's certificates takes a while.
    made: OnceLock<Result<reqwest::Client, String>>,
}

impl Client {
    pub fn new(config: &Config) -> Self {
        Self { authorities: config.certificate_authorities_file.clone(), made: OnceLock::new() }
    }

    fn get(&self) -> Result<&reqwest::Client, Failure> {
        let make = || make(self.authorities.as_deref()).map_err(|error| format!("requests can't be made: {error:#}"));
        self.made.get_or_init(make).as_ref().map_err(|why| Failure::Connection(why.clone()))
    }
}

fn make(authorities: Option<&Path>) -> anyhow::Result<reqwest::Client> {
    let client = Base::load(authorities)?.client().timeout(TIMEOUT).redirect(redirect::Policy::none());
    Ok(client.build()?)
}

/// One request: `path` is what follows `/_matrix/app/v1`, in parts. Gives the body of the answer if that is a success.
///
/// NOTSPEC: only a service that does not know the path is asked at the older one, not one that fails, since it would get
/// twice each time what it can't take for now.
///
/// <https://spec.matrix.org/v1.19/application-service-api/#legacy-routes>
pub async fn request(
    client: &Client,
    service: &Appservice,
    method: Method,
    path: &[&str],
    query: &[(String, String)],
    body: Option<String>,
) -> Result<Vec<u8>, Failure> {
    let body = body.map(Bytes::from);
    let url = address(service, &["_matrix", "app", "v1"], path, query)?;
    let answered = send(client, service, method.clone(), url, body.clone()).await;
    if let Err(failure) = &answered
        && failure.is_unknown_path()
        && let Some(prefix) = older_prefix(path)
    {
        let mut url = address(service, prefix, path, query)?;
        // Services that are so old do not know the header either.
        url.query_pairs_mut().append_pair("access_token", service.hs_token.expose());
        return send(client, service, method, url, body).await;
    }
    answered
}

/// What stood in the place of `/_matrix/app/v1`, for the paths that are older.
fn older_prefix(path: &[&str]) -> Option<&'static [&'static str]> {
    match *path.first()? {
        "transactions" | "users" | "rooms" => Some(&[]),
        "thirdparty" => Some(&["_matrix", "app", "unstable"]),
        _ => None,
    }
}

fn address(service: &Appservice, prefix: &[&str], path: &[&str], query: &[(String, String)]) -> Result<Url, Failure> {
    let mut url = service.url.clone().ok_or(Failure::NoUrl)?;
    match url.path_segments_mut() {
        Ok(mut segments) => segments.pop_if_empty().extend(prefix.iter().chain(path)),
        Err(()) => return Err(Failure::NoUrl),
    };
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

async fn send(
    client: &Client,
    service: &Appservice,
    method: Method,
    url: Url,
    body: Option<Bytes>,
) -> Result<Vec<u8>, Failure> {
    let mut request = client.get()?.request(method, url).bearer_auth(service.hs_token.expose());
    if let Some(body) = body {
        request = request.header(header::CONTENT_TYPE, "application/json").body(body);
    }
    let mut response = request.send().await.map_err(failure)?;
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Failure::Connection("its answer is too long".to_owned()));
        }
        answer.extend(chunk);
    }
    match response.status() {
        status if status.is_success() => Ok(answer),
        status => Err(Failure::Status(status, String::from_utf8_lossy(&answer).into_owned())),
    }
}

/// As [`request`], for an answer of JSON.
pub async fn get_json<T: DeserializeOwned>(
    client: &Client,
    service: &Appservice,
    path: &[&str],
    query: &[(String, String)],
) -> Result<T, Failure> {
    let answer = request(client, service, Method::GET, path, query, None).await?;
    serde_json::from_slice(&answer).map_err(|e| Failure::Connection(format!("its answer can't be read: {e}")))
}

fn failure(error: reqwest::Error) -> Failure {
    // Without the address: it stands in the registration, and queries would be in the log.
    match error.is_timeout() {
        true => Failure::TimedOut,
        false => Failure::Connection(error.without_url().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_unknown_unless_something_else_is_said_to_be() {
        let is_unknown = |status, answer: &str| Failure::Status(status, answer.to_owned()).is_unknown_path();
        let unrecognized = r#"{"errcode":"M_UNRECOGNIZED"}"#;
        for answer in ["", "Cannot PUT /_matrix/app/v1/transactions/1", unrecognized] {
            assert!(is_unknown(StatusCode::NOT_FOUND, answer), "{answer}");
            assert!(is_unknown(StatusCode::METHOD_NOT_ALLOWED, answer), "{answer}");
            assert!(!is_unknown(StatusCode::BAD_GATEWAY, answer), "{answer}");
        }
        for answer in ["{}", r#"{"errcode":"M_NOT_FOUND"}"#] {
            assert!(!is_unknown(StatusCode::NOT_FOUND, answer), "{answer}");
        }
    }
}

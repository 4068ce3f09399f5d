use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::request::Parts;
use ruma::{
    OwnedServerName,
    api::{IncomingRequest, error::DeserializationError, federation::authentication::ServerSignatures},
};
use serde::de::DeserializeOwned;

use super::{
    error::unreadable,
    extract::{parse, read},
};
use crate::{Server, error::Error, federation::x_matrix};

/// A request of another server, whose signature was checked and with which we federate.
pub struct Federation<R> {
    /// Who signed it.
    pub origin: OwnedServerName,
    pub body: R,
    /// The body as it came, for what ruma's types leave out.
    pub raw: Bytes,
}

/// As [`Federation`], with a body that ruma has no type for.
pub struct FederationJson<T> {
    pub origin: OwnedServerName,
    pub body: T,
}

impl<R: IncomingRequest<Authentication = ServerSignatures> + Send> FromRequest<Arc<Server>> for Federation<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (origin, parts, raw) = authenticate(request, server).await?;
        let (body, raw) = parse(Request::from_parts(parts, raw.into()), server).await?;
        Ok(Self { origin, body, raw })
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Server>> for FederationJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (origin, _, raw) = authenticate(request, server).await?;
        let body = serde_json::from_slice(&raw).map_err(|e| unreadable(DeserializationError::Json(e).into()))?;
        Ok(Self { origin, body })
    }
}

/// Who signed a request, its head, and its body.
async fn authenticate(request: Request, server: &Arc<Server>) -> Result<(OwnedServerName, Parts, Bytes), Error> {
    let (parts, body) = request.into_parts();
    let raw = read(body, server).await?;
    let mut signed = http::Request::new(raw.clone());
    *signed.method_mut() = parts.method.clone();
    *signed.uri_mut() = parts.uri.clone();
    *signed.headers_mut() = parts.headers.clone();
    let origin = x_matrix::authenticate(server, &signed).await?;
    Ok((origin, parts, raw))
}

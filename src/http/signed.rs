use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use ruma::{
    OwnedServerName,
    api::{IncomingRequest, federation::authentication::ServerSignatures},
};

use super::extract::{parse, read};
use crate::{Server, error::Error, federation::x_matrix};

/// A request of another server, whose signature was checked and with which we federate.
pub struct Federation<R> {
    /// Who signed it.
    pub origin: OwnedServerName,
    pub body: R,
    /// The body as it came, for what ruma's types leave out.
    pub raw: Bytes,
}

impl<R: IncomingRequest<Authentication = ServerSignatures> + Send> FromRequest<Arc<Server>> for Federation<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let raw = read(body, server).await?;
        let mut signed = http::Request::new(raw.clone());
        *signed.method_mut() = parts.method.clone();
        *signed.uri_mut() = parts.uri.clone();
        *signed.headers_mut() = parts.headers.clone();
        let origin = x_matrix::authenticate(server, &signed).await?;
        let (body, raw) = parse(Request::from_parts(parts, raw.into()), server).await?;
        Ok(Self { origin, body, raw })
    }
}

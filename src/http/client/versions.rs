//! API versions: <https://spec.matrix.org/v1.19/client-server-api/#api-versions>

use std::sync::Arc;

use axum::Router;
use ruma::api::client::discovery::get_supported_versions;

use crate::{
    Server,
    http::{endpoint, extract::Matrix},
};

/// The versions of the specification whose features clients can rely on.
const VERSIONS: [&str; 14] = [
    "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11",
    "v1.12",
];

pub fn router() -> Router<Arc<Server>> {
    endpoint::<get_supported_versions::Request, _, _>(versions)
}

/// `GET /versions`: the same for everybody, so a token is not looked at. A client with an expired one asks this first.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions>
async fn versions() -> Matrix<get_supported_versions::Response> {
    Matrix(get_supported_versions::Response::new(VERSIONS.map(str::to_owned).to_vec()))
}

use axum::Router;
use ruma::api::federation::discovery::get_server_version::v1 as get_server_version;
use std::sync::Arc;

use crate::{
    Server,
    http::{
        endpoint,
        extract::{Matrix, Public},
    },
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<get_server_version::Request, _, _>(version)
}

/// `GET /_matrix/federation/v1/version`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1version>
async fn version(_: Public<get_server_version::Request>) -> Matrix<get_server_version::Response> {
    let mut implementation = get_server_version::Server::new();
    implementation.name = Some("Chappe".to_owned());
    implementation.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = get_server_version::Response::new();
    response.server = Some(implementation);
    Matrix(response)
}

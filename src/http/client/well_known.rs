//! Server discovery: <https://spec.matrix.org/v1.19/client-server-api/#server-discovery>. What the configuration does not
//! say is not served.

use std::sync::Arc;

use axum::{Router, extract::State, routing::get};
use ruma::{
    OwnedServerName,
    api::client::{
        discovery::{
            discover_homeserver::{self, HomeserverInfo},
            discover_policy_server, discover_support,
        },
        rtc::transports,
    },
    serde::Base64,
};
use serde::Serialize;

use crate::{
    Server, config,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<discover_homeserver::Request, _, _>(client))
        .merge(endpoint::<discover_support::Request, _, _>(support))
        .merge(endpoint::<discover_policy_server::Request, _, _>(policy_server))
        .merge(endpoint::<transports::v1::Request, _, _>(rtc_transports))
        .route("/.well-known/matrix/server", get(server_address))
}

fn not_configured() -> Error {
    Error::not_found("This server says nothing about that")
}

/// `GET /.well-known/matrix/client`
/// <https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixclient>
async fn client(State(server): State<Arc<Server>>) -> Result<Json<ClientInfo>> {
    let base_url = server.config.well_known.client.clone().ok_or_else(not_configured)?;
    let rtc_foci = server.config.well_known.rtc_transports.clone();
    Ok(Json(ClientInfo { homeserver: HomeserverInfo::new(base_url), rtc_foci }))
}

/// With what ruma leaves out.
#[derive(Serialize)]
struct ClientInfo {
    #[serde(rename = "m.homeserver")]
    homeserver: HomeserverInfo,
    /// <https://github.com/matrix-org/matrix-spec-proposals/pull/4143>
    #[serde(rename = "org.matrix.msc4143.rtc_foci", skip_serializing_if = "Vec::is_empty")]
    rtc_foci: Vec<config::RtcTransport>,
}

#[derive(Serialize)]
struct Transports {
    rtc_transports: Vec<config::RtcTransport>,
}

/// `GET /rtc/transports`
/// <https://github.com/matrix-org/matrix-spec-proposals/pull/4143>
async fn rtc_transports(State(server): State<Arc<Server>>, _: Client<transports::v1::Request>) -> Json<Transports> {
    Json(Transports { rtc_transports: server.config.well_known.rtc_transports.clone() })
}

#[derive(Serialize)]
struct ServerAddress {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

/// `GET /.well-known/matrix/server`
/// <https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver>
async fn server_address(State(server): State<Arc<Server>>) -> Result<Json<ServerAddress>> {
    let server = server.config.well_known.server.clone().ok_or_else(not_configured)?;
    Ok(Json(ServerAddress { server }))
}

/// `GET /.well-known/matrix/policy_server`
/// <https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixpolicy_server>
async fn policy_server(State(server): State<Arc<Server>>) -> Result<Matrix<discover_policy_server::Response>> {
    let key = server.config.well_known.policy_server.as_ref().ok_or_else(not_configured)?;
    let key = Base64::parse(key).map_err(Error::internal)?;
    Ok(Matrix(discover_policy_server::Response::new(key)))
}

/// `GET /.well-known/matrix/support`
/// <https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixsupport>
async fn support(State(server): State<Arc<Server>>) -> Result<Matrix<discover_support::Response>> {
    let support = server.config.well_known.support.as_ref().ok_or_else(not_configured)?;
    let contacts = support.contacts.iter().filter_map(contact).collect();
    let mut response = discover_support::Response::with_contacts(contacts);
    response.support_page.clone_from(&support.support_page);
    Ok(Matrix(response))
}

/// `None` without an address, which the configuration does not allow.
fn contact(contact: &config::Contact) -> Option<discover_support::Contact> {
    let config::Contact { role, matrix_id, email_address } = contact.clone();
    match (matrix_id, email_address) {
        (Some(matrix_id), email_address) => {
            let mut contact = discover_support::Contact::with_matrix_id(role, matrix_id);
            contact.email_address = email_address;
            Some(contact)
        }
        (None, Some(email_address)) => Some(discover_support::Contact::with_email_address(role, email_address)),
        (None, None) => None,
    }
}

//! API versions: <https://spec.matrix.org/v1.19/client-server-api/#api-versions>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::discovery::get_supported_versions;

use crate::{
    Server,
    config::RendezvousFor,
    http::{endpoint, extract::Matrix},
};

/// The versions of the specification that we claim: all. Clients decide by them what to rely on, so the next one comes in
/// when its features are there.
const VERSIONS: [&str; 20] = [
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12",
    "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

/// What we have by the names under which clients look for it beside the version: proposals, and what became of them.
const FEATURES: &[&str] = &[
    "com.beeper.msc4169",                             // redactions by `/send`, v1.18
    "fi.mau.msc2246.stable",                          // media uploaded after its id was made, v1.7
    "fi.mau.msc2659.stable",                          // pings of application services, v1.7
    "m.lazy_load_members",                            // r0.5
    "org.matrix.e2e_cross_signing",                   // v1.1
    "org.matrix.msc2285.stable",                      // private read receipts, v1.4
    "org.matrix.msc2836",                             // trees of replies
    "org.matrix.msc3391",                             // account data that is deleted
    "org.matrix.msc3440.stable",                      // threads, v1.4
    "org.matrix.msc3715.stable",                      // relations in both directions, v1.4
    "org.matrix.msc3771",                             // receipts of threads, v1.4
    "org.matrix.msc3773",                             // unread counts of threads, v1.4
    "org.matrix.msc3814",                             // dehydrated devices
    "org.matrix.msc3827.stable",                      // the directory by types of rooms, v1.4
    "org.matrix.msc3856.stable",                      // the list of threads, v1.4
    "org.matrix.msc3874",                             // messages with some relation only
    "org.matrix.msc3881",                             // pushers that are switched off
    "org.matrix.msc3912",                             // redactions with what relates to the event
    "org.matrix.msc3916.stable",                      // authenticated media, v1.11
    "org.matrix.msc4140",                             // delayed events
    "org.matrix.msc4155",                             // invites by some users and servers only
    "org.matrix.msc4262",                             // profile updates in sliding sync
    "org.matrix.msc4306",                             // subscriptions to threads
    "org.matrix.msc4308",                             // subscriptions to threads in sliding sync
    "org.matrix.msc4354",                             // sticky events
    "org.matrix.msc4429",                             // profile updates in sync
    "org.matrix.simplified_msc3575",                  // sliding sync, MSC4186
    "uk.half-shot.msc2666.query_mutual_rooms.stable", // v1.19
    "uk.tcpip.msc4133.stable",                        // profile fields, v1.16
    "uk.timedout.msc4323",                            // locking and suspending accounts, v1.18
];

pub fn router() -> Router<Arc<Server>> {
    endpoint::<get_supported_versions::Request, _, _>(versions)
}

/// `GET /versions`: the same for everybody, so a token is not looked at. A client with an expired one asks this first.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions>
async fn versions(State(server): State<Arc<Server>>) -> Matrix<get_supported_versions::Response> {
    let mut answer = get_supported_versions::Response::new(VERSIONS.map(str::to_owned).to_vec());
    let has_rendezvous = server.config.rendezvous == RendezvousFor::Anyone && server.config.well_known.client.is_some();
    let rendezvous = has_rendezvous.then_some(&"org.matrix.msc4108");
    let retention = server.config.retention.enabled.then_some(&"org.matrix.msc1763");
    let features = FEATURES.iter().chain(rendezvous).chain(retention);
    answer.unstable_features = features.map(|name| ((*name).to_owned(), true)).collect();
    Matrix(answer)
}

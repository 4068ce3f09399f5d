//! The client-server API: a file per section of the specification, each with a `router()`.

mod account;
mod account_data;
mod admin;
mod appservices;
mod auth_fallback;
mod banning;
mod capabilities;
mod create_room;
mod cross_signing;
mod dehydrated_device;
mod delayed_events;
mod devices;
mod event_by_time;
mod event_relationships;
mod event_stream;
mod filter;
mod inviting;
mod joining;
mod key_backup;
mod keys;
mod kicking;
mod knocking;
mod leaving;
mod login;
mod logout;
mod media;
mod members;
mod messages;
mod openid;
mod password_policy;
mod presence;
mod profile;
mod public_rooms;
mod push_rules;
mod pushers;
mod read_markers;
mod receipts;
mod redaction;
pub(super) mod registration;
mod relations;
mod rendezvous;
mod reporting;
mod retention;
mod room_aliases;
mod room_events;
mod room_send;
mod room_state_get;
mod search;
mod sliding_sync;
mod spaces;
mod sso;
mod streamed;
mod sync;
mod tags;
mod third_party_ids;
mod thread_subscriptions;
mod threads;
mod to_device;
mod typing;
mod upgrading;
mod user_directory;
mod versions;
mod voip;
mod well_known;

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(account::router())
        .merge(account_data::router())
        .merge(admin::router())
        .merge(appservices::router())
        .merge(auth_fallback::router())
        .merge(banning::router())
        .merge(capabilities::router())
        .merge(create_room::router())
        .merge(cross_signing::router())
        .merge(dehydrated_device::router())
        .merge(delayed_events::router())
        .merge(devices::router())
        .merge(event_by_time::router())
        .merge(event_relationships::router())
        .merge(event_stream::router())
        .merge(filter::router())
        .merge(inviting::router())
        .merge(joining::router())
        .merge(key_backup::router())
        .merge(keys::router())
        .merge(kicking::router())
        .merge(knocking::router())
        .merge(leaving::router())
        .merge(login::router())
        .merge(logout::router())
        .merge(media::router())
        .merge(members::router())
        .merge(messages::router())
        .merge(password_policy::router())
        .merge(openid::router())
        .merge(presence::router())
        .merge(profile::router())
        .merge(public_rooms::router())
        .merge(push_rules::router())
        .merge(pushers::router())
        .merge(read_markers::router())
        .merge(receipts::router())
        .merge(redaction::router())
        .merge(registration::router())
        .merge(relations::router())
        .merge(rendezvous::router())
        .merge(reporting::router())
        .merge(retention::router())
        .merge(room_aliases::router())
        .merge(room_events::router())
        .merge(room_send::router())
        .merge(room_state_get::router())
        .merge(sliding_sync::router())
        .merge(spaces::router())
        .merge(sso::router())
        .merge(search::router())
        .merge(sync::router())
        .merge(tags::router())
        .merge(thread_subscriptions::router())
        .merge(threads::router())
        .merge(third_party_ids::router())
        .merge(to_device::router())
        .merge(typing::router())
        .merge(upgrading::router())
        .merge(user_directory::router())
        .merge(versions::router())
        .merge(voip::router())
        .merge(well_known::router())
}

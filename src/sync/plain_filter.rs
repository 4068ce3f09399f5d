//! Filters for events that are in no room.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter_request_eventfilter>

use ruma::{OwnedUserId, UserId, api::client::filter::Filter};

use crate::room::event_filter::matches;

pub fn allows(filter: &Filter, event_type: &str, sender: &UserId) -> bool {
    let is_type = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, event_type));
    let is_sender = |users: &[OwnedUserId]| users.iter().any(|user| user == sender);
    filter.types.as_deref().is_none_or(is_type)
        && !is_type(&filter.not_types)
        && filter.senders.as_deref().is_none_or(is_sender)
        && !is_sender(&filter.not_senders)
}

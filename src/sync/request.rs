//! What a client asks of `/sync`, in the terms of this server.

use std::{sync::Arc, time::Duration};

use ruma::{OwnedDeviceId, OwnedUserId, api::client::filter::FilterDefinition};

use super::token::Token;
use crate::{
    event::fields::Fields,
    user::{presence::State, session},
};

/// The longest that a client is kept waiting: longer than clients ask for.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// The events of one room's timeline, unless the filter says something else.
const DEFAULT_TIMELINE_LIMIT: usize = 10;

/// The most events of one room's timeline, whatever the filter says.
pub const MAX_TIMELINE_LIMIT: usize = 1000;

#[derive(Clone, Debug)]
pub struct Request {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    /// The token that it came with, which may end while it waits.
    pub token: Option<session::Hash>,
    /// What the client has seen already; `None` for an initial sync.
    pub since: Option<Token>,
    pub filter: Arc<FilterDefinition>,
    /// Tells the filter from others of the device.
    pub filter_hash: u64,
    /// The fields of profiles of which the client wants to hear.
    pub profile_fields: Vec<String>,
    pub full_state: bool,
    pub state_form: StateForm,
    pub timeout: Duration,
    /// What the user is while his client asks for news.
    pub set_presence: State,
}

/// Of which moment the state of rooms is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateForm {
    /// Of the start of the timeline.
    Before,
    /// Of its end.
    After,
    /// Of its end, under the name that it had as a proposal (MSC4222).
    UnstableAfter,
}

impl StateForm {
    /// The name of the member that holds the state of a room.
    pub fn key(self) -> &'static str {
        match self {
            Self::Before => "state",
            Self::After => "state_after",
            Self::UnstableAfter => "org.matrix.msc4222.state_after",
        }
    }

    pub fn is_after(self) -> bool {
        self != Self::Before
    }
}

impl Request {
    /// News since a moment, or all, of rooms as no filter changes them; answered at once.
    pub fn new(user_id: OwnedUserId, device_id: OwnedDeviceId, since: Option<Token>) -> Self {
        Self {
            user_id,
            device_id,
            token: None,
            since,
            filter: Arc::default(),
            filter_hash: 0,
            profile_fields: Vec::new(),
            full_state: false,
            state_form: StateForm::Before,
            timeout: Duration::ZERO,
            set_presence: State::Offline,
        }
    }

    /// How long the client may be kept waiting for news: not at all if it wants everything.
    pub fn patience(&self) -> Duration {
        if self.since.is_none() || self.full_state { Duration::ZERO } else { self.timeout.min(MAX_TIMEOUT) }
    }

    /// The only `limit` of a filter that counts. What is left out of a timeline is said to be missing and can be asked for;
    /// of state, account data, receipts and presence a client would never hear again, as the next answer begins after it.
    /// NOTSPEC: the specification has a limit for all of these; Synapse has none for them, either.
    pub fn timeline_limit(&self) -> usize {
        let limit =
            self.filter.room.timeline.limit.map(|limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX));
        limit.map_or(DEFAULT_TIMELINE_LIMIT, |limit| limit.min(MAX_TIMELINE_LIMIT))
    }

    /// Whether the state of rooms comes without the members who said nothing.
    pub fn is_lazy(&self) -> bool {
        !self.filter.room.state.lazy_load_options.is_disabled()
    }

    /// The filter's `event_fields`.
    pub fn fields(&self) -> Option<Fields> {
        self.filter.event_fields.as_ref().map(|paths| Fields::new(paths.iter().map(String::as_str)))
    }
}

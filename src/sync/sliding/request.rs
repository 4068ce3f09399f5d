//! What a client asks for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::client::sync::sync_events::v5::request::{ExtensionRoomConfig, Extensions},
    presence::PresenceState,
};
use serde::{Deserialize, Serialize};

use super::{pos::Pos, required_state::RequiredState};
use crate::{
    error::{Error, Result},
    sync::{Request, StateForm, request::MAX_TIMELINE_LIMIT},
    user::{presence::State, session::Caller},
};

/// Bounds on one request. Source: the proposal for lists and subscriptions, else our choice.
const MAX_LISTS: usize = 100;
const MAX_SUBSCRIPTIONS: usize = 100;
const MAX_RANGES: usize = 100;
const MAX_NAME_BYTES: usize = 255;
/// Of the `required_state` of one list or subscription: it is kept with the connection.
const MAX_REQUIRED_BYTES: usize = 16 << 10;

/// The body. ruma has a type for it, which knows only some of the filters.
#[derive(Debug, Deserialize)]
pub struct Body {
    /// In the final form of the proposal these are here, and not in the query.
    pub pos: Option<String>,
    pub timeout: Option<u64>,
    pub conn_id: Option<String>,
    pub set_presence: Option<PresenceState>,
    pub txn_id: Option<String>,
    #[serde(default)]
    lists: BTreeMap<String, ListBody>,
    #[serde(default)]
    room_subscriptions: BTreeMap<String, RoomBody>,
    #[serde(default)]
    extensions: ExtensionsBody,
}

/// ruma has the extensions for sticky events and profiles with features that we do without.
#[derive(Debug, Default, Deserialize)]
struct ExtensionsBody {
    #[serde(default, rename = "org.matrix.msc4354.sticky_events")]
    sticky_events: StickyEvents,
    #[serde(default, rename = "org.matrix.msc4262.profiles")]
    profiles: Profiles,
    #[serde(flatten)]
    others: Extensions,
}

/// <https://github.com/matrix-org/matrix-spec-proposals/pull/4480>
#[derive(Clone, Debug, Default, Deserialize)]
pub struct StickyEvents {
    #[serde(default)]
    pub enabled: bool,
    pub limit: Option<u64>,
    pub since: Option<String>,
}

/// <https://github.com/matrix-org/matrix-spec-proposals/pull/4262>
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Profiles {
    #[serde(default)]
    pub enabled: bool,
    pub lists: Option<Vec<String>>,
    pub rooms: Option<Vec<ExtensionRoomConfig>>,
    /// All, if it is not said.
    pub fields: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct ListBody {
    #[serde(default)]
    required_state: Vec<(String, String)>,
    timeline_limit: u64,
    ranges: Option<Vec<(u64, u64)>>,
    #[serde(default)]
    slow_get_all_rooms: bool,
    #[serde(default)]
    filters: Filters,
}

#[derive(Debug, Deserialize)]
struct RoomBody {
    #[serde(default)]
    required_state: Vec<(String, String)>,
    timeline_limit: u64,
}

/// All that are given must hold.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Filters {
    pub is_dm: Option<bool>,
    pub spaces: Option<Vec<String>>,
    pub is_encrypted: Option<bool>,
    #[serde(alias = "is_invited")]
    pub is_invite: Option<bool>,
    pub room_types: Option<Vec<Option<String>>>,
    pub not_room_types: Option<Vec<Option<String>>>,
    pub room_name_like: Option<String>,
    pub tags: Option<Vec<String>>,
    pub not_tags: Option<Vec<String>>,
}

/// What to tell of a room.
#[derive(Clone, Debug, Default)]
pub struct RoomConfig {
    pub timeline_limit: usize,
    pub required: RequiredState,
    /// That of `required`.
    pub fingerprint: u64,
}

impl RoomConfig {
    fn new(timeline_limit: u64, required_state: Vec<(String, String)>, me: &OwnedUserId) -> Result<Self> {
        if required_state.iter().map(|(kind, key)| kind.len() + key.len() + 8).sum::<usize>() > MAX_REQUIRED_BYTES {
            return Err(Error::invalid_param("A required_state is too long"));
        }
        let timeline_limit = usize::try_from(timeline_limit).unwrap_or(usize::MAX).min(MAX_TIMELINE_LIMIT);
        let required = RequiredState::new(required_state, me);
        Ok(Self { timeline_limit, fingerprint: required.fingerprint(), required })
    }

    /// Also what `other` wants.
    pub fn add(&mut self, other: &Self) {
        self.timeline_limit = self.timeline_limit.max(other.timeline_limit);
        if self.fingerprint != other.fingerprint {
            self.required.add(&other.required);
            self.fingerprint = self.required.fingerprint();
        }
    }
}

#[derive(Clone, Debug)]
pub struct List {
    pub config: Arc<RoomConfig>,
    /// First and last place of each; `None` for all rooms.
    pub ranges: Option<Vec<(usize, usize)>>,
    pub filters: Filters,
}

/// A request whose form is right.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asks, since when, and for how long he waits, as for `/sync`.
    pub base: Request,
    pub conn_id: String,
    pub txn_id: Option<String>,
    pub pos: Option<Pos>,
    pub lists: BTreeMap<String, List>,
    pub subscriptions: BTreeMap<String, Arc<RoomConfig>>,
    pub extensions: Extensions,
    pub sticky_events: StickyEvents,
    pub profiles: Profiles,
}

impl Asked {
    /// Errors: `M_INVALID_PARAM` for what is out of bounds.
    pub fn new(sender: Caller, pos: Option<Pos>, timeout: Duration, set_presence: State, body: Body) -> Result<Self> {
        let Caller { user_id, device_id, token, .. } = sender;
        let Body { conn_id, txn_id, lists, room_subscriptions, extensions, .. } = body;
        let conn_id = conn_id.unwrap_or_default();
        let names = lists.keys().chain([&conn_id]).chain(&txn_id);
        if names.into_iter().any(|name| name.len() > MAX_NAME_BYTES) {
            return Err(Error::invalid_param(format!("conn_id, txn_id and lists have {MAX_NAME_BYTES} bytes at most")));
        }
        if lists.len() > MAX_LISTS || room_subscriptions.len() > MAX_SUBSCRIPTIONS {
            let bounds = format!("There may be {MAX_LISTS} lists and {MAX_SUBSCRIPTIONS} room_subscriptions at most");
            return Err(Error::invalid_param(bounds));
        }
        let lists = lists.into_iter().map(|(name, list)| Ok((name, list.check(&user_id)?)));
        let subscriptions = room_subscriptions.into_iter().map(|(room, body)| {
            Ok((room, Arc::new(RoomConfig::new(body.timeline_limit, body.required_state, &user_id)?)))
        });
        Ok(Self {
            lists: lists.collect::<Result<_>>()?,
            subscriptions: subscriptions.collect::<Result<_>>()?,
            base: Request {
                token,
                state_form: StateForm::After,
                timeout,
                set_presence,
                ..Request::new(user_id, device_id, pos.map(|pos| pos.moment))
            },
            conn_id,
            txn_id,
            pos,
            extensions: extensions.others,
            sticky_events: extensions.sticky_events,
            profiles: extensions.profiles,
        })
    }
}

impl Asked {
    /// Whose connection it is: user, device, and the client's name for it.
    pub fn connection_key(&self) -> (OwnedUserId, OwnedDeviceId, String) {
        (self.base.user_id.clone(), self.base.device_id.clone(), self.conn_id.clone())
    }
}

impl ListBody {
    fn check(self, me: &OwnedUserId) -> Result<List> {
        let ranges = self.ranges.filter(|_| !self.slow_get_all_rooms);
        let ranges = ranges.map(|ranges| ranges.into_iter().map(range).collect::<Result<Vec<_>>>()).transpose()?;
        if ranges.as_ref().is_some_and(|ranges| ranges.len() > MAX_RANGES) {
            return Err(Error::invalid_param(format!("A list may have {MAX_RANGES} ranges at most")));
        }
        let config = RoomConfig::new(self.timeline_limit, self.required_state, me)?;
        Ok(List { config: Arc::new(config), ranges, filters: self.filters })
    }
}

fn range((first, last): (u64, u64)) -> Result<(usize, usize)> {
    if first > last {
        return Err(Error::invalid_param("A range ends before it begins"));
    }
    let place = |place| usize::try_from(place).unwrap_or(usize::MAX);
    Ok((place(first), place(last)))
}

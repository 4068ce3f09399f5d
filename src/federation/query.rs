//! Questions to other servers about one thing that is theirs.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#querying-for-information>

use std::sync::Arc;

use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, ServerName, UserId,
    api::federation::{
        directory::get_public_rooms_filtered,
        query::{get_profile_information, get_room_information},
    },
    directory::RoomNetwork,
    profile::ProfileFieldName,
};
use serde_json::{Map, Value};

use super::{request, request::ordinary, request_within};
use crate::{
    Server,
    error::Result,
    outgoing::Limits,
    room::directory::{self, Network},
    user::profile,
};

/// More servers that an alias names are not remembered. Source: our choice.
const MAX_SERVERS: usize = 100;
/// How large an answer may be: anybody can make us ask, and what is parsed takes several times as much. The specification
/// has 64 KiB for a profile, before escapes, which make some letters thrice as long; a room may be on thousands of servers.
const MAX_PROFILE_BYTES: usize = 200 << 10;
const MAX_ALIAS_BYTES: usize = 512 << 10;

/// The profile of a user of another server, as that server has it now: the whole or one field. What must be a text and is
/// none, `null` for example, is not set.
pub async fn profile(
    server: &Arc<Server>,
    user: &UserId,
    field: Option<ProfileFieldName>,
) -> Result<Map<String, Value>> {
    let mut asked = get_profile_information::v1::Request::new(user.to_owned());
    asked.field = field;
    let limits = Limits { bytes: MAX_PROFILE_BYTES, ..ordinary(server) };
    let profile = request_within(server, user.server_name(), asked, limits).await?.data;
    let is_set = |(name, value): &(String, Value)| value.is_string() || !profile::is_text(name);
    Ok(profile.into_iter().filter(is_set).collect())
}

/// A page of the directory of another server, as that server tells it.
pub async fn public_rooms(
    server: &Arc<Server>,
    other: &ServerName,
    query: directory::Query,
) -> Result<get_public_rooms_filtered::v1::Response> {
    let mut asked = get_public_rooms_filtered::v1::Request::new();
    (asked.limit, asked.since) = (query.limit, query.since);
    asked.room_network = match query.network {
        Network::Own => RoomNetwork::Matrix,
        Network::All => RoomNetwork::All,
        Network::Of(network) => RoomNetwork::ThirdParty(network),
    };
    (asked.filter.generic_search_term, asked.filter.room_types) = (query.search, query.room_types);
    request(server, other, asked).await
}

/// The room of an alias of another server, and servers by which it can be joined: that one first.
pub async fn alias(server: &Arc<Server>, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    let asked = get_room_information::v1::Request::new(alias.to_owned());
    let limits = Limits { bytes: MAX_ALIAS_BYTES, ..ordinary(server) };
    let found = request_within(server, alias.server_name(), asked, limits).await?;
    let mut servers = vec![alias.server_name().to_owned()];
    servers.extend(found.servers.into_iter().filter(|other| other != alias.server_name()).take(MAX_SERVERS));
    Ok((found.room_id, servers))
}

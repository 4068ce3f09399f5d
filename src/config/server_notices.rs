//! `[global.server_notices]`: what the administrators tell users.

use ruma::MxcUri;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Without this section there are no server notices. Its keys are those of Synapse.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerNotices {
    /// Who sends them: the first part of the user id, of an account that nobody else has.
    pub system_mxid_localpart: String,
    pub system_mxid_display_name: Option<String>,
    /// An `mxc://` URI.
    pub system_mxid_avatar_url: Option<String>,
    #[serde(default = "room_name")]
    pub room_name: String,
}

fn room_name() -> String {
    "Server Notices".to_owned()
}

impl ServerNotices {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        let is_allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '=' | '-' | '/' | '+');
        if self.system_mxid_localpart.is_empty() || !self.system_mxid_localpart.chars().all(is_allowed) {
            errors.add(
                "server_notices.system_mxid_localpart",
                "can't be the first part of a user id",
                "write it with a-z, 0-9 and ._=-/+, such as \"notices\"",
            );
        }
        if self.system_mxid_avatar_url.as_deref().is_some_and(|url| !<&MxcUri>::from(url).is_valid()) {
            errors.add(
                "server_notices.system_mxid_avatar_url",
                "is not the URI of an uploaded file",
                "write it as \"mxc://example.org/...\", or leave it out",
            );
        }
    }
}

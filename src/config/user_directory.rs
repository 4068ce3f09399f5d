//! `[global.user_directory]`: whom users find. The keys are Synapse's.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserDirectory {
    /// Whether anybody can search.
    pub enabled: bool,
    /// Whether users find all users of this server, not only those with whom they share a room or who are in a public
    /// one.
    pub search_all_users: bool,
}

impl Default for UserDirectory {
    fn default() -> Self {
        Self { enabled: true, search_all_users: false }
    }
}

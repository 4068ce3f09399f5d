//! What clients learn of this authorization server.
//! <https://spec.matrix.org/v1.19/client-server-api/#server-metadata-discovery>

use serde_json::{Value, json};
use url::Url;

use super::{client::GrantType, paths};
use crate::{config::Config, user::registration};

/// What the account pages are for, by the names of the specification and, below, as they were called before.
pub const PROFILE: &str = "org.matrix.profile";
pub const DEVICES_LIST: &str = "org.matrix.devices_list";
pub const DEVICE_VIEW: &str = "org.matrix.device_view";
pub const DEVICE_DELETE: &str = "org.matrix.device_delete";
pub const ACCOUNT_DEACTIVATE: &str = "org.matrix.account_deactivate";
pub const CROSS_SIGNING_RESET: &str = "org.matrix.cross_signing_reset";
const UNSTABLE: [(&str, &str); 3] = [
    ("org.matrix.sessions_list", DEVICES_LIST),
    ("org.matrix.session_view", DEVICE_VIEW),
    ("org.matrix.session_end", DEVICE_DELETE),
];

/// The name of the specification of an action that may have its earlier name.
pub fn stable_action(action: &str) -> &str {
    UNSTABLE.iter().find(|(unstable, _)| *unstable == action).map_or(action, |(_, stable)| stable)
}

/// `None` if there is no OAuth.
pub fn metadata(config: &Config) -> Option<Value> {
    let base = config.oauth_base()?;
    let at = |path: &str| address(&base, path);
    let grants = GrantType::ALL.map(|(name, _)| name);
    let stable = [PROFILE, DEVICES_LIST, DEVICE_VIEW, DEVICE_DELETE, ACCOUNT_DEACTIVATE, CROSS_SIGNING_RESET];
    let actions: Vec<_> = stable.into_iter().chain(UNSTABLE.map(|(unstable, _)| unstable)).collect();
    let mut metadata = json!({
        "issuer": base,
        "authorization_endpoint": at(paths::AUTHORIZE),
        "token_endpoint": at(paths::TOKEN),
        "revocation_endpoint": at(paths::REVOKE),
        "registration_endpoint": at(paths::REGISTER),
        "device_authorization_endpoint": at(paths::DEVICE),
        "account_management_uri": at(paths::ACCOUNT),
        "account_management_actions_supported": actions,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment"],
        "grant_types_supported": grants,
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "scopes_supported": ["urn:matrix:client:api:*", "urn:matrix:client:device:*"],
    });
    if registration::is_open_on_pages(config) {
        metadata["prompt_values_supported"] = json!(["create"]);
    }
    Some(metadata)
}

/// One of our pages, as browsers reach it.
pub fn address(base: &Url, path: &str) -> String {
    format!("{}{}", base.as_str().trim_end_matches('/'), path)
}

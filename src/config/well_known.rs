//! `[global.well_known]`: what this server says about itself under `/.well-known/matrix/`.

use http::Uri;
use ruma::{
    OwnedServerName, OwnedUserId,
    api::client::discovery::discover_support::ContactRole,
    serde::{Base64, base64::Standard},
};
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// The length of an Ed25519 public key.
const KEY_BYTES: usize = 32;

/// What is not set is not served: the path then answers 404.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WellKnown {
    /// Base URL of the client-server API, `https://matrix.example.org`.
    pub client: Option<String>,
    /// `host:port` at which other servers find this one.
    pub server: Option<OwnedServerName>,
    /// The public key, in Base64, of a policy server that answers under this server's name.
    pub policy_server: Option<String>,
    /// Whom users and other administrators may turn to.
    pub support: Option<Support>,
    /// What calls of groups go through (MatrixRTC).
    #[serde(default)]
    pub rtc_transports: Vec<RtcTransport>,
}

/// `[[global.well_known.rtc_transports]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RtcTransport {
    /// `livekit`, the only one that clients know.
    pub r#type: String,
    /// URL of the service that lets users into LiveKit.
    pub livekit_service_url: String,
}

/// `[global.well_known.support]`. At least one of the two must be given.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Support {
    /// URL of a page about getting help.
    pub support_page: Option<String>,
    #[serde(default)]
    pub contacts: Vec<Contact>,
}

/// `[[global.well_known.support.contacts]]`. At least one of the two addresses must be given.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// `m.role.admin` or `m.role.security`.
    pub role: ContactRole,
    pub matrix_id: Option<OwnedUserId>,
    pub email_address: Option<String>,
}

impl WellKnown {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        if self.client.as_deref().is_some_and(|url| !is_base_url(url)) {
            errors.add(
                "well_known.client",
                "is not the URL of a web server",
                "write it as \"https://matrix.example.org\", without a path",
            );
        }
        let is_key = |key: &String| Base64::<Standard>::parse(key).is_ok_and(|key| key.as_bytes().len() == KEY_BYTES);
        if self.policy_server.as_ref().is_some_and(|key| !is_key(key)) {
            errors.add("well_known.policy_server", "is no Ed25519 key", "write its 32 bytes in Base64");
        }
        for transport in &self.rtc_transports {
            if transport.r#type != "livekit" || !transport.livekit_service_url.starts_with("https://") {
                errors.add(
                    "well_known.rtc_transports",
                    "has what is no LiveKit service",
                    "write { type = \"livekit\", livekit_service_url = \"https://...\" }",
                );
            }
        }
        let Some(support) = &self.support else { return };
        if support.support_page.is_none() && support.contacts.is_empty() {
            errors.add("well_known.support", "is empty", "give `support_page` or a contact, or leave the section out");
        }
        if support.support_page.as_deref().is_some_and(|page| url::Url::parse(page).is_err()) {
            errors.add("well_known.support.support_page", "is no URL", "write all of it: \"https://example.org/help\"");
        }
        let mut addresses = support.contacts.iter().filter_map(|contact| contact.email_address.as_deref());
        if addresses.any(|address| address.parse::<lettre::Address>().is_err()) {
            errors.add(
                "well_known.support.contacts",
                "has an `email_address` that is none",
                "write it as \"admin@example.org\"",
            );
        }
        if support.contacts.iter().any(|contact| contact.matrix_id.is_none() && contact.email_address.is_none()) {
            errors.add(
                "well_known.support.contacts",
                "has a contact without an address",
                "give each contact `matrix_id` or `email_address`",
            );
        }
    }
}

/// Whether `url` is `http(s)://host[:port]`, to which clients can append `/_matrix/…`.
fn is_base_url(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|uri| {
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        is_web && uri.host().is_some_and(|host| !host.is_empty()) && uri.path() == "/" && uri.query().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_told_from_other_text() {
        for url in ["https://matrix.example.org", "https://matrix.example.org:8448/", "http://localhost:8008"] {
            assert!(is_base_url(url), "{url}");
        }
        for url in ["matrix.example.org", "https://", "ftp://example.org", "https://example.org/matrix", "https://a/?b"]
        {
            assert!(!is_base_url(url), "{url}");
        }
    }
}

//! `[[global.identity_providers]]`: others who know our users, and say so by OpenID Connect.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use ruma::OwnedMxcUri;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{ConfigError, Secret, oauth, one_or_many, opaque_id::is_opaque_id, secret};

/// Longest id. Source: the specification.
const MAX_ID_BYTES: usize = 255;

/// Parameters of the request to a provider that are ours to set.
const OUR_PARAMETERS: [&str; 11] = [
    "acr_values",
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "prompt",
    "redirect_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityProvider {
    /// In addresses, and in the rows that tie accounts to the provider.
    pub id: String,
    pub name: String,
    pub icon: Option<OwnedMxcUri>,
    /// By which clients choose a look.
    pub brand: Option<String>,
    /// Letter by letter as the provider writes it.
    pub issuer: String,
    pub client_id: String,
    /// Comes from `client_secret_file` if that is set. Without it we are a public client.
    pub client_secret: Option<Secret>,
    pub client_secret_file: Option<PathBuf>,
    /// `None`: as the provider says that it takes it.
    pub client_auth_method: Option<ClientAuthMethod>,
    #[serde(default = "default_scopes", deserialize_with = "one_or_many::deserialize")]
    pub scopes: Vec<String>,
    /// Levels of assurance, of which a log-in must have one. Empty: any will do.
    #[serde(default, deserialize_with = "one_or_many::deserialize")]
    pub acr_values: Vec<String>,
    #[serde(default = "default_localpart")]
    pub localpart_claim: String,
    /// Their texts together are the display name.
    #[serde(default = "default_display_name", deserialize_with = "one_or_many::deserialize")]
    pub display_name_claim: Vec<String>,
    #[serde(default = "default_email")]
    pub email_claim: String,
    /// Every address that the provider names is proved, although it does not say so.
    #[serde(default)]
    pub trust_emails: bool,
    /// Whoever has no account gets one.
    #[serde(default = "yes")]
    pub allow_registration: bool,
    #[serde(default)]
    pub taken_name: TakenName,
    /// An account that has the same address is his.
    #[serde(default)]
    pub link_by_email: bool,
    /// Further parameters of the request, in the provider's words.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

/// How the secret is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMethod {
    /// In the header, as HTTP has it.
    ClientSecretBasic,
    /// In the body.
    ClientSecretPost,
}

/// What to do where the name of a new user is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TakenName {
    #[default]
    Refuse,
    /// Add a number.
    Number,
}

fn default_scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).into()
}

fn default_localpart() -> String {
    "preferred_username".to_owned()
}

fn default_display_name() -> Vec<String> {
    vec!["name".to_owned()]
}

fn default_email() -> String {
    "email".to_owned()
}

fn yes() -> bool {
    true
}

impl IdentityProvider {
    fn check(&self, errors: &mut ConfigError) {
        let key = |key: &str| format!("identity_providers.{key}");
        if !is_opaque_id(&self.id, MAX_ID_BYTES) {
            errors.add(key("id"), "is no id", "write up to 255 of A-Z, a-z, 0-9 and ._~-, such as \"proconnect\"");
        }
        if self.name.trim().is_empty() {
            errors.add(key("name"), "is empty", "write what people shall read on the button");
        }
        if self.icon.as_ref().is_some_and(|icon| !icon.is_valid()) {
            errors.add(key("icon"), "is no mxc:// URI", "upload the picture by a client, or leave it out");
        }
        let is_brand = |brand: &str| {
            let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
            brand.as_bytes().first().is_some_and(u8::is_ascii_lowercase) && brand.bytes().all(is_letter)
        };
        if self.brand.as_deref().is_some_and(|brand| !is_brand(brand)) {
            errors.add(key("brand"), "is no brand", "write it as \"gitlab\", or leave it out");
        }
        let issuer = Url::parse(&self.issuer);
        if !issuer.is_ok_and(|url| oauth::is_encrypted(&url) && url.query().is_none() && url.fragment().is_none()) {
            errors.add(
                key("issuer"),
                "is not the URL of an encrypted web server",
                "write it as the provider's own description does, such as \"https://id.example.org\"",
            );
        }
        if self.client_id.is_empty() {
            errors.add(key("client_id"), "is empty", "write what the provider calls this server");
        }
        secret::check(&key("client_secret"), self.client_secret.as_ref(), errors);
        if !self.scopes.iter().any(|scope| scope == "openid") {
            errors.add(key("scopes"), "lack \"openid\"", "add it: without it the provider says nobody's name");
        }
        if let Some(ours) = OUR_PARAMETERS.iter().find(|ours| self.parameters.contains_key(**ours)) {
            errors.add(key("parameters"), format!("have `{ours}`, which is set by Chappe"), "remove it");
        }
    }
}

/// `has_base`: it is known where browsers reach this server.
pub(super) fn check(providers: &[IdentityProvider], has_base: bool, errors: &mut ConfigError) {
    let mut ids = HashSet::new();
    for provider in providers {
        provider.check(errors);
        if !ids.insert(&provider.id) {
            errors.add("identity_providers.id", format!("`{}` is there twice", provider.id), "rename one of them");
        }
    }
    if !providers.is_empty() && !has_base {
        errors.add(
            "identity_providers",
            "send browsers back to pages that are not there",
            "set `public_url` of [global.oauth] or `client` of [global.well_known] to an encrypted address of this \
             server, and leave [global.oauth] enabled",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::complaints_of;

    fn complaints(lines: &str) -> String {
        let base = "id = 'a'\nname = 'A'\nissuer = 'https://id.example.org'\nclient_id = 'c'\n";
        complaints_of(base, lines, |provider, errors| check(&[provider], true, errors))
    }

    #[test]
    fn what_is_given_must_be_fit() {
        assert_eq!(complaints(""), "");
        assert_eq!(complaints("issuer = 'http://127.0.0.1:3000/a'\nbrand = 'gitlab'\nicon = 'mxc://a.example/b'"), "");
        for (lines, key) in [
            ("id = 'a/b'", "id"),
            ("name = ' '", "name"),
            ("icon = 'https://a.example/b'", "icon"),
            ("brand = 'Git Lab'", "brand"),
            ("issuer = 'http://id.example.org'", "issuer"),
            ("issuer = 'https://id.example.org?x'", "issuer"),
            ("client_id = ''", "client_id"),
            ("client_secret = ''", "client_secret"),
            ("scopes = ['email']", "scopes"),
            ("parameters = { nonce = 'x' }", "parameters"),
        ] {
            let complaint = complaints(lines);
            assert!(complaint.starts_with(&format!("`identity_providers.{key}`")), "{lines}: {complaint}");
            assert_eq!(complaint.lines().count(), 1, "{complaint}");
        }
    }

    #[test]
    fn an_id_stands_for_one_provider_and_browsers_come_back_to_pages() {
        let provider: IdentityProvider =
            toml::from_str("id = 'a'\nname = 'A'\nissuer = 'https://id.example.org'\nclient_id = 'c'").unwrap();
        let mut errors = ConfigError::default();
        check(&[provider.clone(), provider], false, &mut errors);
        let errors = errors.into_result().unwrap_err().to_string();
        assert!(errors.contains("`a` is there twice") && errors.contains("`public_url` of [global.oauth]"), "{errors}");
        check(&[], false, &mut ConfigError::default());
    }
}

//! `[global.registration_terms]`: what a user must accept to register (`m.login.terms`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// From a policy's id, such as `privacy_policy`, to the policy.
pub type RegistrationTerms = BTreeMap<String, Policy>;

/// `[global.registration_terms.privacy_policy]`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Policy {
    /// Changes when the text does.
    pub version: String,
    /// From a language code, such as `fr`, to the text in that language.
    #[serde(flatten)]
    pub languages: BTreeMap<String, PolicyText>,
}

/// `[global.registration_terms.privacy_policy.fr]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// The title that a client shows.
    pub name: String,
    /// Where the text can be read.
    pub url: String,
}

pub(super) fn check(terms: &RegistrationTerms, errors: &mut ConfigError) {
    for (id, policy) in terms {
        for (language, text) in &policy.languages {
            if text.name.trim().is_empty() || url::Url::parse(&text.url).is_err() {
                errors.add(
                    format!("registration_terms.{id}.{language}"),
                    "has no `name`, or a `url` that is none",
                    "write a title, and all of the address: \"https://example.org/privacy.html\"",
                );
            }
        }
    }
    for (id, _) in terms.iter().filter(|(_, policy)| policy.languages.is_empty()) {
        errors.add(
            format!("registration_terms.{id}"),
            "has no text in any language",
            format!("add a section [global.registration_terms.{id}.en] with `name` and `url`"),
        );
    }
}

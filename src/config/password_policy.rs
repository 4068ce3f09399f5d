//! `[global.password_policy]`: what a new password must have. The keys are Synapse's.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// By default any password will do that is not empty.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PasswordPolicy {
    /// Characters.
    pub minimum_length: u16,
    pub require_digit: bool,
    /// A character that is neither letter nor digit.
    pub require_symbol: bool,
    pub require_lowercase: bool,
    pub require_uppercase: bool,
}

impl PasswordPolicy {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        if self.minimum_length > 128 {
            errors.add("password_policy.minimum_length", "is more than anybody can type", "set it to 128 or less");
        }
    }
}

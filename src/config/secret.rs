//! Configuration values that must never be shown.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use subtle::ConstantTimeEq;

use super::ConfigError;

/// What stands in its place where it would be printed.
const HIDDEN: &str = "***";
/// What the conduit.toml that we shipped had as an example.
const EXAMPLE: &str = "a long random text";

/// A password-like text. Printing, logging or serializing it gives `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for computing with it. Never put it into a log or an answer.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `given` is this secret; takes equally long wherever they differ.
    pub fn matches(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// Complains about what is no secret.
pub(super) fn check(key: &str, secret: Option<&Secret>, errors: &mut ConfigError) {
    let problem = match secret.map(Secret::expose) {
        Some("") => "is empty",
        Some(HIDDEN) => "is what `chappe config` prints in place of a secret",
        Some(EXAMPLE) => "is an example that everybody knows",
        _ => return,
    };
    errors.add(key, problem, "give it the true value (`openssl rand -hex 32` prints a new one), or leave it out");
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// Refuses what is not text in its own words: serde's complaint would show the value.
struct SecretVisitor;

impl SecretVisitor {
    fn not_text<E: de::Error>() -> E {
        E::custom("a secret must be text: put it in quotation marks")
    }
}

impl de::Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Err(Self::not_text())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Err(Self::not_text())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Err(Self::not_text())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Err(Self::not_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
    }

    #[test]
    fn a_secret_matches_only_itself() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches("hunter2"));
        assert!(!secret.matches("hunter3") && !secret.matches("hunter") && !secret.matches(""));
    }

    #[test]
    fn a_number_is_refused_without_being_shown() {
        let error = serde_json::from_str::<Secret>("424242").unwrap_err().to_string();
        assert!(error.contains("quotation marks") && !error.contains("4242"), "{error}");
    }
}

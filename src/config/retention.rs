//! `[global.retention]`: for how long messages are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, duration};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Whether messages are removed because of their age at all.
    pub enabled: bool,
    /// How long the messages of rooms are kept that say nothing of it. `None`: for good.
    #[serde(with = "duration::optional")]
    pub default_lifetime: Option<Duration>,
    /// A room that wants its messages kept for a shorter time gets this.
    #[serde(with = "duration")]
    pub allowed_lifetime_min: Duration,
    /// A room that wants its messages kept for longer gets this. `None`: no limit.
    #[serde(with = "duration::optional")]
    pub allowed_lifetime_max: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            enabled: false,
            default_lifetime: None,
            allowed_lifetime_min: Duration::from_secs(24 * 60 * 60),
            allowed_lifetime_max: None,
        }
    }
}

impl Retention {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        let shortest = self.allowed_lifetime_min;
        if self.allowed_lifetime_max.is_some_and(|longest| longest < shortest) {
            errors.add(
                "retention.allowed_lifetime_max",
                "is shorter than `allowed_lifetime_min`",
                "make it longer, or leave it out",
            );
            return;
        }
        let longest = self.allowed_lifetime_max.unwrap_or(Duration::MAX);
        if self.default_lifetime.is_some_and(|default| default < shortest || default > longest) {
            errors.add(
                "retention.default_lifetime",
                "is not what a room could have either",
                "set it between `allowed_lifetime_min` and `allowed_lifetime_max`",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_must_be_within_the_limits() {
        let day = Duration::from_secs(24 * 60 * 60);
        for (default, longest, complaint) in [
            (None, None, None),
            (Some(day), None, None),
            (Some(day / 2), None, Some("default_lifetime")),
            (Some(3 * day), Some(2 * day), Some("default_lifetime")),
            (Some(2 * day), Some(2 * day), None),
            (None, Some(day / 2), Some("allowed_lifetime_max")),
        ] {
            let retention = Retention {
                enabled: true,
                default_lifetime: default,
                allowed_lifetime_max: longest,
                ..Retention::default()
            };
            let mut errors = ConfigError::default();
            retention.check(&mut errors);
            let said = errors.into_result().err().map(|error| error.to_string());
            match complaint {
                Some(key) => assert!(said.as_ref().is_some_and(|said| said.contains(key)), "{retention:?}: {said:?}"),
                None => assert_eq!(said, None, "{retention:?}"),
            }
        }
    }
}

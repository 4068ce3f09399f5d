//! `[global.delayed_events]`: events that users have sent later.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, duration};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DelayedEvents {
    /// The longest time after which an event may be sent.
    #[serde(with = "duration")]
    pub max_delay: Duration,
    /// How many events one user may have waiting; 0 switches delayed events off.
    pub max_scheduled: usize,
}

impl DelayedEvents {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        if self.max_delay.is_zero() {
            let way_out = "set it to 1 d; `max_scheduled = 0` switches delayed events off";
            errors.add("delayed_events.max_delay", "lets no event wait", way_out);
        }
    }
}

impl Default for DelayedEvents {
    fn default() -> Self {
        Self { max_delay: Duration::from_secs(24 * 60 * 60), max_scheduled: 100 }
    }
}

//! For how long the messages of rooms are kept: MSC1763.
//!
//! A room says it by a state event; the configuration sets limits, and says it for rooms that do not. What has expired is
//! shown to nobody from that moment on, which is [`View::has_expired`]'s to say; the sweep removes it later (`purge.rs`).
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/1763>

pub mod purge;

use std::time::Duration;

use ruma::events::StateEventType;
use serde::Deserialize;

use super::View;
use crate::{
    clock::Clock,
    config,
    error::{Error, Result},
    event::Draft,
    store,
};

/// The types of the state event. A room may have both, and clients go by the first.
pub const TYPES: [&str; 2] = ["org.matrix.msc1763.retention", "m.room.retention"];

/// The longest lifetime that an event may name, in milliseconds. Source: the proposal.
const MAX_LIFETIME_MS: u64 = (1 << 53) - 1;

/// What the configuration says, in milliseconds.
#[derive(Debug)]
pub struct Retention {
    default_ms: Option<u64>,
    min_ms: u64,
    max_ms: u64,
    clock: Clock,
}

impl Retention {
    /// `None` where nothing ever expires.
    pub fn new(config: &config::Retention, clock: &Clock) -> Option<Self> {
        config.enabled.then(|| Self {
            default_ms: config.default_lifetime.map(ms),
            min_ms: ms(config.allowed_lifetime_min),
            max_ms: config.allowed_lifetime_max.map_or(u64::MAX, ms),
            clock: clock.clone(),
        })
    }

    /// From before when the messages of a room have expired, in milliseconds since the Unix epoch; 0 if they never do.
    pub(super) fn expired_before(&self, view: &View<'_>) -> store::Result<u64> {
        let lifetime = self.lifetime_ms(Policy::of(view)?);
        Ok(lifetime.map_or(0, |lifetime| self.clock.now_ms().saturating_sub(lifetime)))
    }

    /// NOTSPEC: a room that names no longest lifetime has the server's default, as with Synapse, if that is not shorter than
    /// its shortest. The proposal would give it the least that the limits allow.
    fn lifetime_ms(&self, policy: Policy) -> Option<u64> {
        let default = || self.default_ms.map(|default| default.max(policy.min_lifetime.unwrap_or_default()));
        let wanted = policy.max_lifetime.or_else(default)?;
        Some(wanted.max(self.min_ms).min(self.max_ms))
    }
}

/// As the proposal counts.
pub fn ms(lifetime: Duration) -> u64 {
    u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).min(MAX_LIFETIME_MS)
}

/// What a room says, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Policy {
    min_lifetime: Option<u64>,
    max_lifetime: Option<u64>,
}

impl Policy {
    /// `None` if the content is not of the proposal's form, or contradicts itself.
    fn read(content: &str) -> Option<Self> {
        let policy: Self = serde_json::from_str(content).ok()?;
        let Self { min_lifetime, max_lifetime } = policy;
        let is_sound = max_lifetime.is_none_or(|max| max <= MAX_LIFETIME_MS)
            && min_lifetime.is_none_or(|min| min <= max_lifetime.unwrap_or(MAX_LIFETIME_MS));
        is_sound.then_some(policy)
    }

    /// The latest that the room says, for all of its messages. What makes no sense counts as not said.
    fn of(view: &View<'_>) -> store::Result<Self> {
        for event_type in TYPES {
            let event = view.state_pdu(view.current_state(), &StateEventType::from(event_type), "")?;
            let policy = event.and_then(|event| Self::read(event.content.get())).unwrap_or_default();
            if policy != Self::default() {
                return Ok(policy);
            }
        }
        Ok(Self::default())
    }
}

/// Whether a policy that one of our users sets makes sense: `M_BAD_JSON` if not, since each server would read it in its own
/// way.
pub fn check_draft(draft: &Draft) -> Result<()> {
    if draft.state_key.as_deref() != Some("") || !TYPES.contains(&draft.event_type.as_str()) {
        return Ok(());
    }
    if is_policy(draft.content.get()) {
        return Ok(());
    }
    Err(Error::bad_json(
        "`min_lifetime` and `max_lifetime` are numbers of milliseconds up to 2^53 - 1, the first not above the second",
    ))
}

/// Whether the content of a state event is of the proposal's form.
pub fn is_policy(content: &str) -> bool {
    Policy::read(content).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(content: &str) -> Option<(Option<u64>, Option<u64>)> {
        Policy::read(content).map(|policy| (policy.min_lifetime, policy.max_lifetime))
    }

    #[test]
    fn a_policy_is_two_numbers_of_which_the_first_is_not_above_the_second() {
        assert_eq!(policy(r#"{"max_lifetime":9007199254740991,"x":1}"#), Some((None, Some(MAX_LIFETIME_MS))));
        assert_eq!(policy(r#"{"max_lifetime":null,"min_lifetime":5}"#), Some((Some(5), None)));
        assert_eq!(policy(r#"{"max_lifetime":5,"min_lifetime":5}"#), Some((Some(5), Some(5))));
        assert_eq!(policy("{}"), Some((None, None)));
        for content in [
            r#"{"max_lifetime":9007199254740992}"#,
            r#"{"min_lifetime":9007199254740992}"#,
            r#"{"max_lifetime":4,"min_lifetime":5}"#,
            r#"{"max_lifetime":-1}"#,
            r#"{"max_lifetime":"5"}"#,
            r#"{"max_lifetime":5.5}"#,
            "[]",
        ] {
            assert_eq!(policy(content), None, "{content}");
        }
    }

    #[test]
    fn the_limits_hold_for_what_rooms_say_and_the_default_for_those_that_say_nothing() {
        let lifetime = |default_ms, min_lifetime, max_lifetime| {
            let retention = Retention { default_ms, min_ms: 10, max_ms: 100, clock: Clock::manual(0) };
            retention.lifetime_ms(Policy { min_lifetime, max_lifetime })
        };
        assert_eq!(lifetime(None, None, None), None);
        assert_eq!(lifetime(Some(50), None, None), Some(50));
        assert_eq!(lifetime(Some(50), None, Some(60)), Some(60));
        assert_eq!(lifetime(Some(50), None, Some(5)), Some(10));
        assert_eq!(lifetime(None, None, Some(500)), Some(100));
        assert_eq!(lifetime(None, Some(20), None), None, "it asks for no end");
        assert_eq!(lifetime(Some(50), Some(70), None), Some(70), "the default does not cut it short");
        assert_eq!(lifetime(Some(50), Some(700), None), Some(100));
    }
}

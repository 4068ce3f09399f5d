//! Events that everybody in the room is to get for a while, whatever else is left out:
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4354>

use serde::Deserialize;
use serde_json::Value;

/// The member of an event that says for how long, by the name that it has while it is a proposal.
pub const KEY: &str = "msc4354_sticky";

/// The longest time, in milliseconds. Source: the proposal.
const MAX_MS: u64 = 60 * 60 * 1000;

/// For how long the event of this `common` is sticky, in milliseconds; `None` if it is not.
pub fn duration_ms(common: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Common {
        #[serde(rename = "msc4354_sticky")]
        sticky: Option<Value>,
    }
    if !common.contains(KEY) {
        return None; // nearly all, and nothing is parsed for that
    }
    let sticky = serde_json::from_str::<Common>(common).ok()?.sticky?;
    sticky.get("duration_ms")?.as_u64().map(|duration| duration.min(MAX_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_number_of_milliseconds_makes_an_event_sticky() {
        let of = |sticky: &str| duration_ms(&format!(r#"{{"content":{{}},"msc4354_sticky":{sticky}}}"#));
        assert_eq!(of(r#"{"duration_ms":0}"#), Some(0));
        assert_eq!(of(r#"{"duration_ms":5000,"x":[]}"#), Some(5000));
        assert_eq!(of(r#"{"duration_ms":90000000}"#), Some(MAX_MS));
        for bad in ["{}", "null", "5000", "[]", r#"{"duration_ms":-1}"#, r#"{"duration_ms":"5"}"#] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(duration_ms(r#"{"content":{"msc4354_sticky":{"duration_ms":5000}}}"#), None);
    }
}

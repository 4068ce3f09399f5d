//! Lengths of time as an administrator writes them: `#[serde(with = "duration")]` for a
//! [`Duration`], `#[serde(with = "duration::optional")]` for one that may be left out.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What an administrator may write, and its milliseconds; the first name of each is the one we print.
const UNITS: [(&[&str], u64); 6] = [
    (&["ms", "millisecond", "milliseconds"], 1),
    (&["s", "sec", "second", "seconds"], 1_000),
    (&["min", "m", "minute", "minutes"], 60_000),
    (&["h", "hour", "hours"], 3_600_000),
    (&["d", "day", "days"], 86_400_000),
    (&["w", "week", "weeks"], 604_800_000),
];

/// Text that is no length of time.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a length of time; write a number and a unit, such as \"10 s\", \"5 min\" or \"1 h 30 min\"")]
pub struct NotADuration(String);

/// Reads `"10 s"`, `"5 minutes"`, `"1 h 30 min"`. A number without a unit is refused: seconds and
/// milliseconds are too easily mistaken for each other.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let wrong = || NotADuration(text.to_owned());
    let mut rest = text.trim();
    let mut total_ms = 0_u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = split_while(rest, |c| c.is_ascii_digit());
        let (unit, after) = split_while(after.trim_start(), |c| c.is_ascii_alphabetic());
        let number = number.parse::<u64>().map_err(|_| wrong())?;
        let unit_ms = UNITS.iter().find(|(names, _)| names.contains(&unit)).ok_or_else(wrong)?.1;
        total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(wrong)?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(total_ms))
}

/// The longest start of `text` whose characters all satisfy `belongs`, and what follows it.
fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// The length of time in the largest unit that expresses it exactly, in whole milliseconds.
pub fn print(duration: Duration) -> String {
    let ms = duration.as_millis();
    let exact = UNITS.iter().rev().find(|(_, unit_ms)| ms > 0 && ms.is_multiple_of(u128::from(*unit_ms)));
    let (names, unit_ms) = exact.unwrap_or(&UNITS[0]);
    format!("{} {}", ms / u128::from(*unit_ms), names[0])
}

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&print(*duration))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    // Text only, so that a bare number gets serde's "expected a string" beside the key's name.
    parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// The same for a key that may be left out.
pub mod optional {
    use super::*;

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(print).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.as_deref().map(parse).transpose().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_human_forms() {
        for (text, seconds) in [("10 s", 10), ("5minutes", 300), ("1 h 30 min", 5_400), ("2 weeks", 1_209_600)] {
            assert_eq!(parse(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(parse("250 ms").unwrap(), Duration::from_millis(250));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "10", "s", "-1 s", "1.5 h", "10 fortnights", "1 h 30", "99999999999999999999 s", "9999999999999 w"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_printed_duration_reads_as_itself() {
        for ms in [0, 1, 999, 1_000, 90_000, 3_600_000, 86_400_000, 604_800_000, 1_209_600_001] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse(&print(duration)).unwrap(), duration, "{ms}");
        }
        assert_eq!(print(Duration::from_secs(90)), "90 s");
    }
}

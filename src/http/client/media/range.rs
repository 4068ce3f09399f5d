//! `Range` and the conditions on it: <https://www.rfc-editor.org/rfc/rfc9110#section-14>

use http::{HeaderMap, header};

/// Which bytes of a file a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// From the first to the last, both included.
    Bytes(u64, u64),
    /// The file has none of what was asked for.
    Nothing,
}

/// What `headers` ask of a file of `size` bytes whose `ETag` is `etag`. A range of any other form than one of bytes is
/// ignored, as it may be.
pub fn asked_for(headers: &HeaderMap, size: u64, etag: &str) -> Part {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(range) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else { return Part::Whole };
    if headers.contains_key(header::IF_RANGE) && text(header::IF_RANGE) != Some(etag) {
        return Part::Whole; // the client has a part of something else
    }
    let Some((first, last)) = range.trim().split_once('-') else { return Part::Whole };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => between(first, last, size),
        (Some(first), None) if last.is_empty() => between(first, u64::MAX, size),
        (None, Some(0)) if first.is_empty() => Part::Nothing,
        (None, Some(count)) if first.is_empty() => between(size.saturating_sub(count), u64::MAX, size),
        _ => Part::Whole,
    }
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn between(first: u64, last: u64, size: u64) -> Part {
    if first < size { Part::Bytes(first, last.min(size - 1)) } else { Part::Nothing }
}

/// Whether the client has the file already.
pub fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: &str, size: u64) -> Part {
        let headers = HeaderMap::from_iter([(header::RANGE, range.parse().unwrap())]);
        asked_for(&headers, size, "\"a\"")
    }

    #[test]
    fn one_range_of_bytes_is_understood() {
        assert_eq!(of("bytes=0-0", 10), Part::Bytes(0, 0));
        assert_eq!(of("bytes=2-", 10), Part::Bytes(2, 9));
        assert_eq!(of("bytes=2-99", 10), Part::Bytes(2, 9));
        assert_eq!(of("bytes=-3", 10), Part::Bytes(7, 9));
        assert_eq!(of("bytes=-30", 10), Part::Bytes(0, 9));
        for nothing in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(of(nothing, 10), Part::Nothing, "{nothing}");
        }
        assert_eq!(of("bytes=0-", 0), Part::Nothing);
        assert_eq!(of("bytes=-1", 0), Part::Nothing);
    }

    #[test]
    fn what_is_no_such_range_is_ignored() {
        for other in [
            "bytes=5-2",
            "bytes=0-1,3-4",
            "bytes=0-1,3-",
            "lines=0-1",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1-x",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(of(other, 10), Part::Whole, "{other}");
        }
    }

    #[test]
    fn a_part_of_another_file_is_not_continued() {
        let with = |tag: &str| {
            HeaderMap::from_iter([
                (header::RANGE, "bytes=2-".parse().unwrap()),
                (header::IF_RANGE, tag.parse().unwrap()),
            ])
        };
        assert_eq!(asked_for(&with("\"a\""), 10, "\"a\""), Part::Bytes(2, 9));
        assert_eq!(asked_for(&with("\"b\""), 10, "\"a\""), Part::Whole);
    }

    #[test]
    fn a_known_file_is_recognized() {
        let with = |tags: &str| HeaderMap::from_iter([(header::IF_NONE_MATCH, tags.parse().unwrap())]);
        for known in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert!(is_known(&with(known), "\"a\""), "{known}");
        }
        assert!(!is_known(&with("\"b\""), "\"a\"") && !is_known(&HeaderMap::new(), "\"a\""));
    }
}

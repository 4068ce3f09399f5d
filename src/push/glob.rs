//! Patterns with `*` and `?`, as push rules have them. Capital and small letters are the same.
//!
//! <https://spec.matrix.org/v1.19/appendices/#glob-style-matching>

use std::collections::HashMap;

/// Whether `pattern` matches all of `text`.
pub fn matches(pattern: &str, text: &str) -> bool {
    if !has_wildcards(pattern) {
        return if pattern.is_ascii() && text.is_ascii() {
            pattern.eq_ignore_ascii_case(text)
        } else {
            lower_chars(pattern).eq(lower_chars(text))
        };
    }
    Glob::new(pattern).finds(lower_chars(text), |before, after| before.is_none() || after.is_none())
}

/// Whether `pattern` matches any part of `text`, which is in small letters, that begins and ends at a word boundary: at
/// an end of the text, or beside a character that is none of `[A-Za-z0-9_]`.
pub fn finds_words(pattern: &str, text: &str) -> bool {
    if pattern.is_empty() {
        return text.is_empty(); // nothing is found between two words
    }
    if !has_wildcards(pattern) {
        return finds_literal_words(&lower(pattern), text);
    }
    Glob::new(pattern).finds(text.chars(), is_boundary)
}

pub fn has_wildcards(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// `text` in small letters, each character for itself.
pub fn lower(text: &str) -> String {
    lower_chars(text).collect()
}

fn lower_chars(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

fn finds_literal_words(words: &str, text: &str) -> bool {
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find(words)) {
        let (start, end) = (from + found, from + found + words.len());
        let is_boundary_at =
            |place: usize| is_boundary(text[..place].chars().next_back(), text[place..].chars().next());
        if is_boundary_at(start) && is_boundary_at(end) {
            return true;
        }
        from = start + text[start..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// Whether a word may begin or end between two characters.
fn is_boundary(before: Option<char>, after: Option<char>) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !(before.is_some_and(is_word) && after.is_some_and(is_word))
}

/// A pattern, matched in time that grows with pattern length (in steps of 64) times text length, whatever both are:
/// the pattern is a user's, the text anybody's. The state of a match is a set of bits: bit `i` is on where the first `i`
/// parts of the pattern (a character or `?` each) match what was read so far.
#[derive(Debug)]
struct Glob {
    parts: usize,
    /// The places before which the pattern has a `*`.
    stars: Bits,
    /// The places at which it has a `?`.
    any: Bits,
    /// The places of each character.
    places: HashMap<char, Bits>,
}

type Bits = Vec<u64>;

impl Glob {
    fn new(pattern: &str) -> Self {
        let pattern: Vec<char> = lower_chars(pattern).collect();
        let parts = pattern.iter().filter(|c| **c != '*').count();
        let words = parts / 64 + 1;
        let mut glob = Self { parts, stars: vec![0; words], any: vec![0; words], places: HashMap::new() };
        let mut place = 0;
        for c in pattern {
            match c {
                '*' => set(&mut glob.stars, place),
                '?' => set(&mut glob.any, place),
                c => set(glob.places.entry(c).or_insert_with(|| vec![0; words]), place),
            }
            place += usize::from(c != '*');
        }
        glob
    }

    /// Whether the pattern matches a part of `text` that begins and ends where `may_end` says so, of the characters
    /// before and after a place.
    fn finds(&self, text: impl Iterator<Item = char>, may_end: impl Fn(Option<char>, Option<char>) -> bool) -> bool {
        let mut state = vec![0; self.stars.len()];
        let mut text = text.peekable();
        let mut before = None;
        loop {
            if may_end(before, text.peek().copied()) {
                set(&mut state, 0);
                if is_set(&state, self.parts) {
                    return true;
                }
            }
            let Some(c) = text.next() else { return false };
            self.step(&mut state, c);
            before = Some(c);
        }
    }

    /// Reads one character.
    fn step(&self, state: &mut Bits, c: char) {
        if state.iter().all(|bits| *bits == 0) {
            return;
        }
        let places = self.places.get(&c);
        let mut carry = 0;
        for (word, bits) in state.iter_mut().enumerate() {
            let matched = *bits & (self.any[word] | places.map_or(0, |places| places[word]));
            *bits = (*bits & self.stars[word]) | (matched << 1) | carry;
            carry = matched >> 63;
        }
    }
}

fn set(bits: &mut Bits, place: usize) {
    bits[place / 64] |= 1 << (place % 64);
}

fn is_set(bits: &Bits, place: usize) -> bool {
    bits[place / 64] & (1 << (place % 64)) != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(pattern: &str, text: &str) -> bool {
        finds_words(pattern, &lower(text))
    }

    #[test]
    fn the_whole_text_must_match() {
        let same = [
            ("", ""),
            ("*", ""),
            ("*", "abc"),
            ("m.room.*", "m.room.message"),
            ("a?c", "aBc"),
            ("A*", "a"),
            ("*?", "x"),
            ("É", "é"),
        ];
        for (pattern, text) in same {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        let other = [("", "a"), ("?", ""), ("a", "ab"), ("m.room.*", "xm.room.a"), ("a*c", "acb"), ("a?c", "ac")];
        for (pattern, text) in other {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn words_are_found_between_boundaries() {
        let found = [
            ("cake", "a piece of Cake!"),
            ("cake*lie", "the cake is a lie"),
            ("ex*ple", "An example event."),
            ("exam?le", "example"),
            ("alice", "cherry-alice-bob"),
            ("!", "a!b"),
            ("foo", "xfoo foo"),
            ("a-a", "xa-a-a"),
            ("日本", "a 日本語"), // no character of these is a word character
            ("*", "x"),
            ("a b", "x a b"),
        ];
        for (pattern, text) in found {
            assert!(words(pattern, text), "{pattern} {text}");
        }
        let not_found =
            [("foo", "xfoo foox"), ("a", "bab_a"), ("ake", "cake"), ("", "x"), ("a?b", "ab"), ("foo*bar", "foobarx")];
        for (pattern, text) in not_found {
            assert!(!words(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn long_patterns_and_texts_take_little_time() {
        let text = "a".repeat(60_000);
        assert!(!matches(&("*a".repeat(500) + "b"), &text));
        assert!(!words(&format!("{}b", "?".repeat(1_000)), &text));
        assert!(!words("a", &"ba ".repeat(20_000)));
    }

    /// The obvious way, which takes exponential time.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((&'*', rest)) => (0..=text.len()).any(|n| slow(rest, &text[n..])),
            Some((&p, rest)) => text.split_first().is_some_and(|(&t, text)| (p == '?' || p == t) && slow(rest, text)),
        }
    }

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    /// The obvious way to find words.
    fn slow_words(pattern: &str, text: &str) -> bool {
        let (pattern, text) = (chars(pattern), chars(text));
        let ends = |place: usize| {
            is_boundary(place.checked_sub(1).and_then(|n| text.get(n)).copied(), text.get(place).copied())
        };
        let places = 0..=text.len();
        let parts = places.clone().flat_map(|start| places.clone().map(move |end| (start, end)));
        let mut parts = parts.filter(|(start, end)| start <= end && ends(*start) && ends(*end));
        parts.any(|(start, end)| slow(&pattern, &text[start..end]))
    }

    proptest! {
        #[test]
        fn it_says_what_the_slow_way_says(pattern in "[ab?*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), slow(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn words_are_what_the_slow_way_finds(pattern in "[ab ?*-]{1,5}", text in "[ab -]{0,10}") {
            prop_assert_eq!(words(&pattern, &text), slow_words(&pattern, &text));
        }

        #[test]
        fn patterns_longer_than_a_machine_word_work(length in 60..140_usize, text in "[ab]{0,3}") {
            let pattern = format!("{}*{}", "a".repeat(length), text);
            let matched = format!("{}x{}", "a".repeat(length), text);
            prop_assert!(matches(&pattern, &matched));
            prop_assert!(!matches(&pattern, &matched[1..]));
        }

        #[test]
        fn nothing_panics(pattern: String, text: String) {
            let _ = (matches(&pattern, &text), words(&pattern, &text));
        }
    }
}

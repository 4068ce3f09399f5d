//! Patterns with `*` and `?`, as push rules have them.
//!
//! <https://spec.matrix.org/v1.19/appendices/#glob-style-matching>

use std::collections::HashMap;

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

/// Where in a text a pattern may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It must be all of the text.
    Whole,
    /// It may be any part of it that begins and ends at a word boundary: at an end of the text, or beside a character
    /// that is none of `[A-Za-z0-9_]`.
    Words,
}

/// Whether `pattern` matches `text`, capital letters or not.
pub fn matches(pattern: &str, text: &str, extent: Extent) -> bool {
    if extent == Extent::Whole && !pattern.contains(['*', '?']) {
        return lower(pattern).eq(lower(text));
    }
    if extent == Extent::Words && pattern.is_empty() {
        return text.is_empty(); // nothing is found between two words
    }
    Glob::new(pattern).finds(text, extent)
}

fn lower(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

impl Glob {
    fn new(pattern: &str) -> Self {
        let pattern: Vec<char> = lower(pattern).collect();
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

    fn finds(&self, text: &str, extent: Extent) -> bool {
        let mut state = vec![0; self.stars.len()];
        let mut chars = lower(text).peekable();
        let mut before = None;
        loop {
            let next = chars.peek().copied();
            let (may_begin, may_end) = match extent {
                Extent::Whole => (before.is_none(), next.is_none()),
                Extent::Words => {
                    let is_boundary = !(before.is_some_and(is_word) && next.is_some_and(is_word));
                    (is_boundary, is_boundary)
                }
            };
            if may_begin {
                set(&mut state, 0);
            }
            if may_end && is_set(&state, self.parts) {
                return true;
            }
            let Some(c) = chars.next() else { return false };
            self.step(&mut state, c);
            before = Some(c);
        }
    }

    /// Reads one character.
    fn step(&self, state: &mut Bits, c: char) {
        let places = self.places.get(&c);
        let mut carry = 0;
        for (word, bits) in state.iter_mut().enumerate() {
            let matched = *bits & (self.any[word] | places.map_or(0, |places| places[word]));
            *bits = (*bits & self.stars[word]) | (matched << 1) | carry;
            carry = matched >> 63;
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
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

    fn whole(pattern: &str, text: &str) -> bool {
        matches(pattern, text, Extent::Whole)
    }

    fn words(pattern: &str, text: &str) -> bool {
        matches(pattern, text, Extent::Words)
    }

    #[test]
    fn the_whole_text_must_match() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "abc"),
            ("m.room.*", "m.room.message"),
            ("a?c", "aBc"),
            ("A*", "a"),
            ("*?", "x"),
            ("É", "é"),
        ] {
            assert!(whole(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("?", ""), ("a", "ab"), ("m.room.*", "xm.room.message"), ("a*c", "acb"), ("a?c", "ac")]
        {
            assert!(!whole(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn words_are_found_between_boundaries() {
        for (pattern, text) in [
            ("cake", "a piece of Cake!"),
            ("cake*lie", "the cake is a lie"),
            ("ex*ple", "An example event."),
            ("exam?le", "example"),
            ("alice", "cherry-alice-bob"),
            ("!", "a!b"),
            ("foo", "xfoo foo"),
            ("日本", "a 日本語"), // no character of these is a word character
            ("*", "x"),
            ("a b", "x a b"),
        ] {
            assert!(words(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("foo", "xfoo foox"), ("a", "bab_a"), ("ake", "cake"), ("", "x"), ("a?b", "ab"), ("foo*bar", "foobarx")]
        {
            assert!(!words(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn long_patterns_and_texts_take_little_time() {
        let text = "a".repeat(60_000);
        assert!(!whole(&("*a".repeat(500) + "b"), &text));
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

    proptest! {
        #[test]
        fn it_says_what_the_slow_way_says(pattern in "[ab?*]{0,8}", text in "[ab]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(whole(&pattern, &text), slow(&chars(&pattern), &chars(&text)));
            prop_assert_eq!(Glob::new(&pattern).finds(&text, Extent::Whole), slow(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn patterns_longer_than_a_machine_word_work(length in 60..140_usize, text in "[ab]{0,3}") {
            let pattern = format!("{}*{}", "a".repeat(length), text);
            let matched = format!("{}x{}", "a".repeat(length), text);
            prop_assert!(whole(&pattern, &matched));
            prop_assert!(!whole(&pattern, &matched[1..]));
        }

        #[test]
        fn nothing_panics(pattern: String, text: String) {
            let _ = whole(&pattern, &text);
            let _ = words(&pattern, &text);
        }
    }
}

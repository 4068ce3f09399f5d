//! A text as the words that it is found by.

use std::collections::BTreeSet;

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};
use unicode_segmentation::UnicodeSegmentation;

/// Longer words are found by as many of their characters.
const MAX_CHARS: usize = 40;

/// How many different words of one text are kept: those of a long message.
const MAX_WORDS: usize = 1_000;

/// The different words of a text, without accents and in small letters, so that `Élève` and `eleve` are one word.
pub fn of(text: &str) -> BTreeSet<String> {
    let words = text.unicode_words().flat_map(|word| word.split(['\'', '’', '_'])); // l'agence is two words
    let mut found = BTreeSet::new();
    for word in words.map(fold).filter(|word| !word.is_empty()) {
        found.insert(word);
        if found.len() == MAX_WORDS {
            break;
        }
    }
    found
}

fn fold(word: &str) -> String {
    let plain = word.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase);
    let mut folded = String::new();
    for c in plain.take(MAX_CHARS) {
        match c {
            'œ' => folded.push_str("oe"),
            'æ' => folded.push_str("ae"),
            'ß' => folded.push_str("ss"),
            'ø' => folded.push('o'),
            'ł' => folded.push('l'),
            c => folded.push(c),
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        of(text).into_iter().collect()
    }

    #[test]
    fn words_are_told_apart_by_the_rules_of_unicode_and_of_french() {
        assert_eq!(words("Hello, world! hello"), ["hello", "world"]);
        assert_eq!(words("L’agence et l'Élève"), ["agence", "eleve", "et", "l"]);
        assert_eq!(words("cœur STRASSE straße ﬁn"), ["coeur", "fin", "strasse"]);
        assert_eq!(words("3.14 snake_case @alice:example.org"), ["3.14", "alice:example.org", "case", "snake"]);
        assert_eq!(words("東京都"), ["京", "東", "都"]);
        assert_eq!(words("👍 ... —"), Vec::<String>::new());
    }

    #[test]
    fn long_words_and_long_texts_are_bounded() {
        assert_eq!(words(&"x".repeat(1_000)), ["x".repeat(MAX_CHARS)]);
        let text: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
        assert_eq!(of(&text.join(" ")).len(), MAX_WORDS);
    }

    proptest! {
        #[test]
        fn any_text_has_words_that_are_found_again(text: String) {
            for word in of(&text) {
                prop_assert!(!word.is_empty());
            }
        }
    }
}

//! Words as they are compared: small letters without accents.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};
use unicode_segmentation::UnicodeSegmentation;

/// Longest word, in bytes; what is longer is cut.
const MAX_WORD_BYTES: usize = 64;

/// The words of a name: "Éloïse Le-Goff" is eloise, le, goff.
pub fn of_name(text: &str) -> impl Iterator<Item = String> {
    let folded = fold(text);
    // Underscores join words for Unicode, but not in user ids; so do dots and apostrophes inside of words.
    let parts = folded.split(['_', '.', '\'', '’']);
    let words = parts.flat_map(str::unicode_words).map(cut).map(ToOwned::to_owned);
    words.collect::<Vec<_>>().into_iter()
}

/// Small letters without accents, in compatible forms.
fn fold(text: &str) -> String {
    let letters = text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase);
    letters
        .flat_map(|c| match c {
            'ß' => ['s', 's'].into_iter().take(2),
            'œ' => ['o', 'e'].into_iter().take(2),
            'æ' => ['a', 'e'].into_iter().take(2),
            'ø' => ['o', 'o'].into_iter().take(1),
            'ł' => ['l', 'l'].into_iter().take(1),
            other => [other, other].into_iter().take(1),
        })
        .collect()
}

fn cut(word: &str) -> &str {
    &word[..word.floor_char_boundary(MAX_WORD_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_words() {
        for (name, words) in [
            ("Éloïse Le-Goff", &["eloise", "le", "goff"][..]),
            ("jean_paul.martin-tchap2", &["jean", "paul", "martin", "tchap2"]),
            ("Straße ŒUVRE Ångström", &["strasse", "oeuvre", "angstrom"]),
            ("O'Neil d’Arc", &["o", "neil", "d", "arc"]),
            ("ﬁn 日本", &["fin", "日", "本"]),
            ("  —!— ", &[]),
        ] {
            assert_eq!(of_name(name).collect::<Vec<_>>(), words, "{name}");
        }
    }

    #[test]
    fn endless_words_are_cut() {
        assert_eq!(of_name(&"é".repeat(500)).next().unwrap().len(), MAX_WORD_BYTES);
    }
}

//! `event_fields` of a filter: which parts of a client event somebody asked for.

use serde_json::{Map, Value, value::RawValue};

/// Paths of the fields to keep, parsed once per filter.
///
/// <https://spec.matrix.org/v1.19/appendices/#dot-separated-property-paths>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields(Vec<Vec<String>>);

impl Fields {
    /// Parses paths such as `content.body`; in `content.m\.relates_to` the second dot is part of a name.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        Self(paths.into_iter().map(split).collect())
    }

    /// The members of `event`, a JSON object, that some path leads to. What no path leads to is left out.
    pub fn select(&self, event: &RawValue) -> serde_json::Result<Box<RawValue>> {
        let event: Map<String, Value> = serde_json::from_str(event.get())?;
        let mut selected = Map::new();
        for path in &self.0 {
            copy(&event, path, &mut selected);
        }
        serde_json::value::to_raw_value(&selected)
    }
}

/// Splits a path at its dots; a backslash makes a dot or a backslash after it part of the name.
fn split(path: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '.' => names.push(std::mem::take(&mut name)),
            '\\' => name.push(characters.next_if(|next| matches!(next, '.' | '\\')).unwrap_or('\\')),
            other => name.push(other),
        }
    }
    names.push(name);
    names
}

/// Copies what `path` leads to, if it leads anywhere, keeping what other paths have copied.
fn copy(from: &Map<String, Value>, path: &[String], to: &mut Map<String, Value>) {
    let Some((name, rest)) = path.split_first() else { return };
    let Some(value) = from.get(name) else { return };
    if rest.is_empty() {
        to.insert(name.clone(), value.clone());
    } else if let Value::Object(inner) = value {
        let copied = to.entry(name).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(copied) = copied {
            copy(inner, rest, copied);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn select(paths: &[&str]) -> Value {
        let event = json!({
            "type": "m.room.message", "content": { "body": "hi", "a.b": { "c\\d": 1, "e": 2 }, "list": [{ "x": 1 }] },
        });
        let event = serde_json::value::to_raw_value(&event).unwrap();
        serde_json::from_str(Fields::new(paths.iter().copied()).select(&event).unwrap().get()).unwrap()
    }

    #[test]
    fn only_what_paths_lead_to_is_kept() {
        assert_eq!(select(&["content.body"]), json!({ "content": { "body": "hi" } }));
        assert_eq!(select(&["type", "nothing", "type.x"]), json!({ "type": "m.room.message" }));
        assert_eq!(select(&[]), json!({}));
        assert_eq!(select(&["content.list.x", "content.list.0"]), json!({ "content": {} }));
    }

    #[test]
    fn paths_add_up_in_any_order() {
        let all = json!({ "body": "hi", "a.b": { "c\\d": 1, "e": 2 }, "list": [{ "x": 1 }] });
        assert_eq!(select(&["content", "content.body"])["content"], all);
        assert_eq!(select(&["content.body", "content"])["content"], all);
        assert_eq!(select(&["content.body", r"content.a\.b.e"])["content"], json!({ "body": "hi", "a.b": { "e": 2 } }));
    }

    #[test]
    fn dots_and_backslashes_in_names_are_escaped() {
        assert_eq!(select(&[r"content.a\.b.c\\d"]), json!({ "content": { "a.b": { "c\\d": 1 } } }));
        assert_eq!(select(&["content.a.b"]), json!({ "content": {} }));
        assert_eq!(split(r"a\.b.c\\d"), ["a.b", r"c\d"]);
        assert_eq!(split(r"a\x.b\"), [r"a\x", r"b\"]);
        assert_eq!(split(""), [""]);
        assert_eq!(split(".a."), ["", "a", ""]);
    }
}

//! JSON that clients give us to keep and to hand out again. A client whose parser refuses a part of an answer loses all
//! of it, again and again, so we take only what every parser reads, wherever in an answer it will stand.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// How deeply it may be nested: with what an answer puts around it, it must stay readable for parsers that stop at 128
/// levels.
pub const MAX_DEPTH: usize = 100;

/// Reads an object; `M_BAD_JSON` if it is none, or one that not everybody can read.
pub fn object(json: &[u8]) -> Result<Map<String, Value>> {
    let value = serde_json::from_slice(json).map_err(|e| Error::bad_json(format!("This JSON can't be kept: {e}")))?;
    if !is_flatter_than(&value, MAX_DEPTH) {
        return Err(Error::bad_json(format!("JSON that is nested more than {MAX_DEPTH} levels deep can't be kept")));
    }
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Error::bad_json("A JSON object is expected")),
    }
}

fn is_flatter_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(values) => levels > 0 && values.iter().all(|value| is_flatter_than(value, levels - 1)),
        Value::Object(fields) => levels > 0 && fields.values().all(|value| is_flatter_than(value, levels - 1)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_parser_may_refuse_is_refused() {
        let nested = |levels: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        for good in ["{}", r#"{"a":1.5,"b":[{}]}"#, &nested(MAX_DEPTH - 1)] {
            object(good.as_bytes()).unwrap();
        }
        for bad in ["[]", "1", "", "{", r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#, &nested(MAX_DEPTH), &nested(50_000)] {
            object(bad.as_bytes()).unwrap_err();
        }
    }
}

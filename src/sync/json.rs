//! JSON that is written as it becomes known, at the end of a buffer: whole answers are copied together from what is
//! stored, without a tree of values in between.

use serde::Serialize;

/// An object that is being written. Members that turn out empty can be taken back.
pub struct Object<'b> {
    out: &'b mut Vec<u8>,
    is_empty: bool,
}

impl<'b> Object<'b> {
    pub fn begin(out: &'b mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// All that was written into the buffer, of this object and around it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Writes a key; the caller writes exactly one value after it.
    pub fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        put(self.out, key);
        self.out.push(b':');
        self.out
    }

    pub fn member(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        put(self.key(key), value);
    }

    /// Writes a member whose value is JSON already.
    pub fn raw(&mut self, key: &str, json: &str) {
        self.key(key).extend_from_slice(json.as_bytes());
    }

    /// Writes a member by `write`, and takes it back if that answers `false`. Where it answers `true`, it may have
    /// moved what is in the buffer elsewhere.
    pub fn member_if<E>(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>) -> Result<bool, E>) -> Result<bool, E> {
        let (length, is_empty) = (self.out.len(), self.is_empty);
        let is_kept = write(self.key(key))?;
        if !is_kept {
            self.out.truncate(length);
            self.is_empty = is_empty;
        }
        Ok(is_kept)
    }

    pub fn end(self) {
        self.out.push(b'}');
    }
}

/// Writes `{"events": […]}`, each event by one call of `write`.
pub fn events<T, E>(
    out: &mut Vec<u8>,
    events: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T) -> Result<(), E>,
) -> Result<(), E> {
    out.extend_from_slice(b"{\"events\":");
    list(out, events, &mut write)?;
    out.push(b'}');
    Ok(())
}

/// Writes an array, each element by one call of `write`.
pub fn list<T, E>(
    out: &mut Vec<u8>,
    elements: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T) -> Result<(), E>,
) -> Result<(), E> {
    out.push(b'[');
    for (i, element) in elements.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, element)?;
    }
    out.push(b']');
    Ok(())
}

/// Writes any value of ours.
///
/// # Panics
/// Never for types whose `Serialize` can't fail, which those of ruma and our own are.
pub fn put(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("our types serialize to JSON, and a Vec takes every byte");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_taken_back_leave_no_trace() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        let nothing = |out: &mut Vec<u8>| -> Result<bool, ()> {
            put(out, "gone");
            Ok(false)
        };
        assert_eq!(object.member_if("first", nothing), Ok(false));
        assert!(object.is_empty());
        object.member("a\"", &1);
        assert_eq!(object.member_if("middle", nothing), Ok(false));
        object.raw("b", "[true]");
        object.end();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a\"":1,"b":[true]}"#);
    }

    #[test]
    fn lists_have_commas_between_their_elements_only() {
        for (elements, expected) in [(&[][..], r#"{"events":[]}"#), (&[1, 2], r#"{"events":[1,2]}"#)] {
            let mut out = Vec::new();
            events(&mut out, elements, |out, n| {
                put(out, n);
                Ok::<_, ()>(())
            })
            .unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}

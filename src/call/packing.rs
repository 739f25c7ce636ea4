//! The context in one piece: the data of User-to-User and the body of a BYE. What does not fit is left out whole.

use std::fmt::Write as _;

use super::context::encoded;
use super::settings::UuiForm;

/// The protocol discriminator of text (Q.931 section 4.5.30: IA5 characters).
const IA5: &str = "04";

/// How several values become one text; either way it is ASCII and holds no control character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `name=value&name=value`, percent-encoded.
    Pairs,
    /// A JSON object.
    Json,
}

/// Values as one text of bounded length.
#[derive(Debug)]
pub(super) struct Package {
    shape: Shape,
    names: Vec<String>,
    items: Vec<String>,
    octets: usize,
    room: usize,
}

impl Package {
    /// An empty one with room for so many octets.
    pub(super) fn new(shape: Shape, room: usize) -> Self {
        let braces = if shape == Shape::Json { "{}".len() } else { 0 };
        Self { shape, names: Vec::new(), items: Vec::new(), octets: braces, room }
    }

    /// Puts a value in where there is room for all of it and its name is new; tells whether it is in.
    pub(super) fn add(&mut self, name: &str, value: &str) -> bool {
        // Neither shape makes a text shorter: what is too long as it is needs no encoding.
        if name.len() + value.len() > self.room || self.names.iter().any(|known| known == name) {
            return false;
        }
        let item = match self.shape {
            Shape::Pairs => format!("{}={}", encoded(name), encoded(value)),
            Shape::Json => format!("{}:{}", quoted(name), quoted(value)),
        };
        let octets = self.octets + item.len() + usize::from(!self.items.is_empty());
        let fits = octets <= self.room;
        if fits {
            self.octets = octets;
            self.names.push(name.to_owned());
            self.items.push(item);
        }
        fits
    }

    /// The text; `None` where nothing fitted.
    pub(super) fn text(self) -> Option<String> {
        let filled = !self.items.is_empty();
        filled.then(|| match self.shape {
            Shape::Pairs => self.items.join("&"),
            Shape::Json => format!("{{{}}}", self.items.join(",")),
        })
    }
}

/// A JSON string (RFC 8259 section 7) in ASCII.
fn quoted(text: &str) -> String {
    let mut out = "\"".to_owned();
    for unit in text.encode_utf16() {
        match u8::try_from(unit).map(char::from) {
            Ok(c @ ('"' | '\\')) => out.extend(['\\', c]),
            Ok(c @ ' '..='~') => out.push(c),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "\\u{unit:04x}")),
        }
    }
    out.push('"');
    out
}

/// The value of User-to-User for this data (RFC 7433 section 4.1).
pub(super) fn user_to_user(data: &str, form: UuiForm) -> String {
    let hex: String = data.bytes().map(|b| format!("{b:02X}")).collect();
    match form {
        UuiForm::Hex => format!("{hex};encoding=hex"),
        UuiForm::Isdn => format!("{IA5}{hex};encoding=hex;purpose=isdn-uui;content=isdn-uui"),
        UuiForm::Pd => format!("{hex};pd={IA5};encoding=hex;purpose=isdn-uui;content=isdn-uui"),
        UuiForm::Avaya => format!("00C8{:02X}{hex};encoding=hex", data.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn user_to_user_in_every_form() {
        for (form, value) in [
            (UuiForm::Hex, "613D31;encoding=hex"),
            (UuiForm::Isdn, "04613D31;encoding=hex;purpose=isdn-uui;content=isdn-uui"),
            (UuiForm::Pd, "613D31;pd=04;encoding=hex;purpose=isdn-uui;content=isdn-uui"),
            (UuiForm::Avaya, "00C803613D31;encoding=hex"),
        ] {
            assert_eq!(user_to_user("a=1", form), value);
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole_and_what_follows_may_still_fit() {
        let mut package = Package::new(Shape::Pairs, 10);
        assert!(package.add("a", "1") && !package.add("b", "1234567") && package.add("c", "123"));
        assert!(!package.add("a", "2"), "a name stands once");
        assert_eq!(package.text().as_deref(), Some("a=1&c=123"));
        assert_eq!(Package::new(Shape::Json, 10).text(), None);
    }

    proptest! {
        #[test]
        fn json_is_ascii_within_its_room_and_reads_back(pairs in prop::collection::btree_map(".*", ".*", 0..6), room in 2usize..200) {
            let mut package = Package::new(Shape::Json, room);
            let sent: Vec<_> = pairs.iter().filter(|(name, value)| package.add(name, value)).collect();
            let text = package.text().unwrap_or_else(|| "{}".to_owned());
            prop_assert!(text.len() <= room && text.bytes().all(|b| (b' '..0x7f).contains(&b)), "{text}");
            let read: std::collections::BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), sent);
        }
    }
}

//! Values that a careless reader or writer of URIs loses.

use serde_json::{Map, Value, json};
use switchback::demo::asapp::{AutoComplete, Behaviour};

/// Name, value, and the value as `encoding = "percent"` has it in a header (RFC 3986 section 2.1).
pub const VALUES: [(&str, &str, &str); 3] = [
    ("marks", "+@;?&%\"<>", "%2B%40%3B%3F%26%25%22%3C%3E"),
    ("sum", "1+1=2 & 5% <a@b>;c?d", "1%2B1%3D2%20%26%205%25%20%3Ca%40b%3E%3Bc%3Fd"),
    ("utf8", "Zoë 東京 €", "Zo%C3%AB%20%E6%9D%B1%E4%BA%AC%20%E2%82%AC"),
];

/// GenerativeAgent leaves them behind.
pub fn left_behind() -> Behaviour {
    let variables: Map<String, Value> =
        VALUES.iter().map(|(name, value, _)| ((*name).to_owned(), json!(value))).collect();
    let output = Some(json!({ "transferType": "AGENT", "transferVariables": variables }));
    let auto_complete = Some(AutoComplete { ongoing_after_ms: 0, completed_after_ms: 0, output });
    Behaviour { auto_complete, ..Behaviour::default() }
}

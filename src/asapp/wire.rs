//! ASAPP's JSON, written and read.
//!
//! Reading forgives: a member that is missing, null or of another type counts as absent, unknown ones are ignored. Two
//! things are not forgiven, because a stranger's conversation is behind them: an answer about another transfer, and
//! an expiry that cannot be read while the number could still be dialled.

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde_json::{Map, Value, json};

use crate::b2bua::io::{CreateTransfer, OutputContext, SipReturn, Transfer, TransferKind, TransferStatus};
use crate::call::TransferId;

/// The body of a create request. `inputContext` and its members are left out when there is nothing in them; of
/// variables with the same name the last one counts. `returner`: what a returning INVITE is to show of itself.
pub(super) fn create_body(id: &TransferId, create: &CreateTransfer, returner: Option<(&str, &str)>) -> String {
    let mut input = Map::new();
    if let Some(task) = &create.task {
        input.insert("taskName".to_owned(), json!(task));
    }
    if !create.variables.is_empty() {
        let variables = create.variables.iter().map(|(name, value)| (name.clone(), json!(value)));
        input.insert("inputVariables".to_owned(), variables.collect::<Map<_, _>>().into());
    }
    let mut body = json!({ "id": id.0, "externalConversationId": create.conversation.0 });
    match &create.kind {
        TransferKind::PhoneNumber { country } => {
            body["type"] = "PHONE_NUMBER".into();
            body["phoneNumber"] = json!({ "country": country });
        }
        TransferKind::Sip(returns) => {
            body["type"] = "SIP".into();
            body["sip"] = match returns {
                SipReturn::Bye => json!({ "returnTransferType": "BYE" }),
                SipReturn::Refer(uri) => json!({ "returnTransferType": "REFER", "returnURI": uri }),
                SipReturn::Invite(uri) => json!({ "returnTransferType": "INVITE", "returnURI": uri }),
            };
            if let (SipReturn::Invite(_), Some((username, password))) = (returns, returner) {
                body["sip"]["returnInviteAuthentication"] = json!({ "username": username, "password": password });
            }
        }
    }
    if !input.is_empty() {
        body["inputContext"] = input.into();
    }
    body.to_string()
}

/// Reads the body of a 2xx answer about the transfer `id`; `dated` is passed through. The error is one line for the
/// log and quotes nothing of the body.
pub(super) fn read_transfer(body: &[u8], id: &TransferId, dated: i64) -> Result<Transfer, String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    if !body.is_object() {
        return Err("the answer is not a JSON object".to_owned());
    }
    if text(&body["id"]).is_some_and(|theirs| !theirs.eq_ignore_ascii_case(&id.0)) {
        return Err("the answer is about another transfer".to_owned());
    }
    let status = text(&body["status"]).map(|word| TransferStatus::read(&word));
    let phone = &body["phoneNumber"];
    let expires_at = match (expiry(phone), &status) {
        (Ok(expires_at), _) => expires_at,
        // The number is spent: nobody will ask how long it lives.
        (Err(_), Some(TransferStatus::Ongoing | TransferStatus::Completed | TransferStatus::Expired)) => None,
        (Err(reason), Some(TransferStatus::Active | TransferStatus::Other(_)) | None) => return Err(reason),
    };
    Ok(Transfer {
        status,
        number: text(&phone["transferNumber"]),
        country: text(&phone["country"]),
        expires_at,
        dated,
        output: body["outputContext"].as_object().map(output_context),
    })
}

/// `expiresAt`, or `expireAt` where the first is absent or null; milliseconds since the Unix epoch.
fn expiry(phone: &Value) -> Result<Option<i64>, String> {
    for name in ["expiresAt", "expireAt"] {
        let value = &phone[name];
        if value.is_null() {
            continue;
        }
        let at = value.as_str().and_then(|text| text.trim().parse::<Timestamp>().ok());
        return match at {
            Some(at) => Ok(Some(at.as_millisecond())),
            None => Err(format!("{name} is not an ISO 8601 time with an offset")),
        };
    }
    Ok(None)
}

fn output_context(output: &Map<String, Value>) -> OutputContext {
    let member = |name| output.get(name).unwrap_or(&Value::Null);
    OutputContext {
        transfer_type: text(member("transferType")),
        task: text(member("currentTaskName")),
        transfer_variables: variables(member("transferVariables")),
        reference_variables: variables(member("referenceVariables")),
    }
}

/// Variables in the order given. A null is left out: it says that there is no value, and an empty text would say
/// that there is one.
fn variables(value: &Value) -> Vec<(String, String)> {
    let members = value.as_object().into_iter().flatten();
    members.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// A string as it is, null as nothing, everything else as its JSON text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// What an error body says: `{"error": {"requestId", "code", "message"}}`, every member optional.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorBody {
    /// For ASAPP's support.
    pub request_id: Option<String>,
    /// Code and message, as far as they are there; untrusted, of any length.
    pub words: String,
}

/// Reads an error body; one in another form says nothing.
pub(super) fn read_error(body: &[u8]) -> ErrorBody {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let words: Vec<String> = ["code", "message"].iter().filter_map(|name| text(&error[name])).collect();
    ErrorBody { request_id: text(&error["requestId"]), words: words.join(" ") }
}

/// An HTTP date (IMF-fixdate), milliseconds since the Unix epoch.
pub(super) fn http_date(date: &str) -> Option<i64> {
    Some(rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::ConversationId;

    fn id() -> TransferId {
        TransferId("00ff-1".to_owned())
    }

    fn read(body: Value) -> Result<Transfer, String> {
        read_transfer(body.to_string().as_bytes(), &id(), 7)
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn create(task: Option<&str>, variables: &[(&str, &str)]) -> String {
        let create = CreateTransfer {
            conversation: ConversationId("conv".to_owned()),
            kind: TransferKind::PhoneNumber { country: "US".to_owned() },
            task: task.map(str::to_owned),
            variables: pairs(variables),
        };
        create_body(&id(), &create, None)
    }

    #[test]
    fn a_create_request_has_the_documented_form_and_keeps_the_order_of_variables() {
        assert_eq!(
            create(Some("Billing"), &[("zeta", "1"), ("alpha", "\"\r\n"), ("zeta", "2")]),
            r#"{"id":"00ff-1","externalConversationId":"conv","type":"PHONE_NUMBER","phoneNumber":{"country":"US"},"inputContext":{"taskName":"Billing","inputVariables":{"zeta":"2","alpha":"\"\r\n"}}}"#
        );
    }

    #[test]
    fn a_transfer_of_type_sip_says_how_it_is_to_come_back() {
        let sip = |returns, returner| {
            let conversation = ConversationId("conv".to_owned());
            let create =
                CreateTransfer { conversation, kind: TransferKind::Sip(returns), task: None, variables: Vec::new() };
            let body: Value = serde_json::from_str(&create_body(&id(), &create, returner)).unwrap();
            assert_eq!((&body["type"], &body["phoneNumber"]), (&json!("SIP"), &Value::Null));
            body["sip"].clone()
        };
        let (uri, returner) = (|| "sip:back@x".to_owned(), Some(("genagent", "s3cret")));
        assert_eq!(sip(SipReturn::Bye, returner), json!({ "returnTransferType": "BYE" }));
        let refer = json!({ "returnTransferType": "REFER", "returnURI": "sip:back@x" });
        assert_eq!(sip(SipReturn::Refer(uri()), returner), refer);
        let mut invite = json!({ "returnTransferType": "INVITE", "returnURI": "sip:back@x" });
        assert_eq!(sip(SipReturn::Invite(uri()), None), invite);
        invite["returnInviteAuthentication"] = json!({ "username": "genagent", "password": "s3cret" });
        assert_eq!(sip(SipReturn::Invite(uri()), returner), invite);
    }

    #[test]
    fn an_empty_input_context_is_left_out() {
        assert!(!create(None, &[]).contains("inputContext"));
        assert!(!create(Some("Billing"), &[]).contains("inputVariables"));
        assert!(!create(None, &[("a", "b")]).contains("taskName"));
    }

    #[test]
    fn a_create_answer_is_read_in_both_spellings_of_the_expiry() {
        for name in ["expiresAt", "expireAt"] {
            let transfer = read(json!({
                "id": "00FF-1", "status": "active",
                "phoneNumber": { "transferNumber": "+19995550199", "country": "US", name: "2026-07-01T02:00:00.250+02:00" },
            }));
            let expected = Transfer {
                status: Some(TransferStatus::Active),
                number: Some("+19995550199".to_owned()),
                country: Some("US".to_owned()),
                expires_at: Some(1_782_864_000_250),
                dated: 7,
                output: None,
            };
            assert_eq!(transfer, Ok(expected), "{name}");
        }
    }

    #[test]
    fn an_unreadable_expiry_never_looks_like_none() {
        for value in [json!(""), json!("soon"), json!("2026-07-01T00:00:00"), json!(1_782_864_000), json!({})] {
            let body = |status| json!({ "status": status, "phoneNumber": { "expiresAt": value } });
            for dialable in [json!(null), json!("ACTIVE"), json!("RINGING")] {
                assert!(read(body(dialable)).unwrap_err().contains("expiresAt"), "{value}");
            }
            for spent in ["ONGOING", "completed", "EXPIRED"] {
                assert_eq!(read(body(json!(spent))).unwrap().expires_at, None, "{value}");
            }
        }
        assert_eq!(read(json!({ "phoneNumber": { "expiresAt": null } })).unwrap().expires_at, None);
    }

    #[test]
    fn an_answer_about_another_transfer_is_refused() {
        assert_eq!(read(json!({ "id": "00ff-2" })).unwrap_err(), "the answer is about another transfer");
    }

    #[test]
    fn missing_members_and_wrong_types_are_absent() {
        let empty = Transfer { dated: 7, ..Transfer::default() };
        assert_eq!(read(json!({})), Ok(empty.clone()));
        assert_eq!(read(json!({ "phoneNumber": "+1", "outputContext": [], "status": null, "new": {} })), Ok(empty));
    }

    #[test]
    fn anything_but_an_object_is_malformed() {
        let deep = "[".repeat(100_000);
        for body in ["", "null", "[]", "\"x\"", "{", "{\"id\":\"\u{0}\"}", "<html>", deep.as_str()] {
            assert!(read_transfer(body.as_bytes(), &id(), 0).is_err(), "{body:.20}");
        }
        assert!(read_transfer(b"{\"id\":\"\xff\"}", &id(), 0).is_err());
    }

    #[test]
    fn an_output_context_keeps_order_and_turns_values_into_text() {
        let read = read(json!({
            "status": "Completed",
            "outputContext": {
                "transferType": "agent", "currentTaskName": "Pay",
                "transferVariables": { "z": "a\r\nb", "": "", "n": 1.5, "b": true, "none": null, "deep": { "k": [1] } },
                "referenceVariables": "none",
            },
        }));
        let expected = OutputContext {
            transfer_type: Some("agent".to_owned()),
            task: Some("Pay".to_owned()),
            transfer_variables: pairs(&[
                ("z", "a\r\nb"),
                ("", ""),
                ("n", "1.5"),
                ("b", "true"),
                ("deep", r#"{"k":[1]}"#),
            ]),
            reference_variables: Vec::new(),
        };
        assert_eq!(read.unwrap().output, Some(expected));
    }

    #[test]
    fn an_unknown_status_keeps_its_spelling() {
        let transfer = read(json!({ "status": "Paused" })).unwrap();
        assert_eq!(transfer.status, Some(TransferStatus::Other("Paused".to_owned())));
    }

    #[test]
    fn an_error_body_gives_what_it_has() {
        let full = br#"{"error":{"requestId":"r-1","code":"429-01","message":"slow down"}}"#;
        let expected = ErrorBody { request_id: Some("r-1".to_owned()), words: "429-01 slow down".to_owned() };
        assert_eq!(read_error(full), expected);
        for other in ["", "<html>", "[]", r#"{"error":"x"}"#, r#"{"error":{"code":null}}"#] {
            assert_eq!(read_error(other.as_bytes()), ErrorBody::default(), "{other}");
        }
    }

    #[test]
    fn http_dates_are_read() {
        assert_eq!(http_date("Wed, 01 Jul 2026 00:00:00 GMT"), Some(1_782_864_000_000));
        assert_eq!(http_date("yesterday"), None);
    }
}

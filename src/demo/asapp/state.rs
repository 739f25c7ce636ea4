//! The mock's memory: transfers, numbers, and the log of requests.

use std::collections::{HashMap, VecDeque};

use axum::http::{HeaderMap, Method};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Behaviour, Fault, Manners, MockAsappSettings, Reply, SeenRequest, TransferInfo};
use crate::clock;

/// Transfers and log lines kept; the oldest go first.
const MAX_TRANSFERS: usize = 100_000;
const MAX_SEEN: usize = 10_000;

#[derive(Debug)]
pub(super) struct Mock {
    settings: MockAsappSettings,
    pub(super) behaviour: Behaviour,
    transfers: HashMap<String, MockTransfer>,
    /// Ids of `transfers`, oldest first.
    order: VecDeque<String>,
    /// Numbers to give out, the next one first.
    free: VecDeque<String>,
    /// Whose each number is that is given out.
    lent: HashMap<String, String>,
    /// Oldest first.
    pub(super) seen: VecDeque<SeenRequest>,
    /// When the requests were admitted that count against [`Behaviour::rate`], oldest first.
    counted: VecDeque<i64>,
    errors: u64,
}

/// Times are milliseconds since the Unix epoch on the mock's clock.
#[derive(Debug)]
struct MockTransfer {
    request: Value,
    number: Option<String>,
    created: i64,
    expires: i64,
    expired: bool,
    received: Option<i64>,
    completed: Option<i64>,
    output: Option<Value>,
    /// Fetches that still say `ONGOING` after the completion.
    lagging: u32,
}

impl MockTransfer {
    fn status(&self) -> &'static str {
        match (self.completed, self.received, self.expired) {
            (Some(_), _, _) if self.lagging == 0 => "COMPLETED",
            (Some(_), _, _) | (None, Some(_), _) => "ONGOING",
            (None, None, true) => "EXPIRED",
            (None, None, false) => "ACTIVE",
        }
    }

    /// The API's view: what was asked for, and what came of it.
    fn view(&self) -> Value {
        let mut view = self.request.clone();
        let status = self.status();
        view["status"] = status.into();
        view["createdAt"] = iso(self.created).into();
        if let Some(received) = self.received {
            view["callReceivedAt"] = iso(received).into();
        }
        if let (Some(completed), "COMPLETED") = (self.completed, status) {
            view["completedAt"] = iso(completed).into();
            if let Some(output) = &self.output {
                view["outputContext"] = output.clone();
            }
        }
        if let Some(number) = &self.number {
            view["phoneNumber"]["transferNumber"] = number.as_str().into();
            view["phoneNumber"]["expiresAt"] = iso(self.expires).into();
        }
        view
    }
}

impl Mock {
    pub(super) fn new(settings: MockAsappSettings) -> Self {
        let numbers = (0..settings.numbers.min(10_000)).map(|line| format!("+1999555{line:04}"));
        Self {
            behaviour: settings.behaviour.clone(),
            free: numbers.collect(),
            settings,
            transfers: HashMap::new(),
            order: VecDeque::new(),
            lent: HashMap::new(),
            seen: VecDeque::new(),
            counted: VecDeque::new(),
            errors: 0,
        }
    }

    pub(super) fn now(&self) -> i64 {
        clock::unix_ms() + self.behaviour.skew_ms
    }

    /// Logs a request and says how it is to be answered.
    pub(super) fn request(&mut self, method: Method, path: String, id: Option<String>, body: Option<Value>) -> Manners {
        tracing::debug!(%method, path, id, "ASAPP mock asked");
        let body = body.unwrap_or_default();
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_front();
        }
        let manners = if method == Method::POST { &mut self.behaviour.create } else { &mut self.behaviour.fetch };
        let mut chosen = manners.clone();
        match &mut manners.times {
            Some(0) => chosen.fault = None,
            Some(left) => *left -= 1,
            None => {}
        }
        if chosen.fault.is_none() {
            chosen.effect = None;
        }
        if self.is_above_the_rate() {
            chosen.fault = Some(Fault::Status { code: 429, retry_after: None });
            chosen.effect = Some(false);
        }
        self.seen.push_back(SeenRequest { at: clock::unix_ms(), method: method.to_string(), path, id, body });
        chosen
    }

    /// Counts one request; true if it is one too many within a second.
    fn is_above_the_rate(&mut self) -> bool {
        let (Some(rate), now) = (self.behaviour.rate, clock::unix_ms()) else { return false };
        while self.counted.front().is_some_and(|&at| at <= now - 1000) {
            self.counted.pop_front();
        }
        let above = self.counted.len() >= rate as usize;
        if !above {
            self.counted.push_back(now);
        }
        above
    }

    /// Whether the connection that brings a request is one of [`Behaviour::resets`].
    pub(super) fn resets_connection(&mut self) -> bool {
        let resets = self.behaviour.resets > 0;
        self.behaviour.resets = self.behaviour.resets.saturating_sub(1);
        resets
    }

    pub(super) fn admitted(&self, headers: &HeaderMap) -> bool {
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|given| given.as_bytes() == value.as_bytes());
        is("asapp-api-id", &self.settings.api_id) && is("asapp-api-secret", &self.settings.api_secret)
    }

    pub(super) fn error(&mut self, status: u16, message: &str) -> Reply {
        self.errors += 1;
        let request_id = format!("mock-{:06}", self.errors);
        let error = json!({ "requestId": request_id, "code": format!("{status}-01"), "message": message });
        Reply { status, retry_after: None, body: json!({ "error": error }) }
    }

    pub(super) fn create(&mut self, request: &Value) -> Reply {
        self.expire();
        if let Err(message) = check(request) {
            return self.error(422, message);
        }
        let id = request["id"].as_str().unwrap_or_default().to_owned();
        if self.transfers.contains_key(&id) {
            return self.error(409, "there is a transfer with this id");
        }
        let number = if request["type"] == "PHONE_NUMBER" {
            let Some(number) = self.free.pop_front() else {
                return self.error(503, "no number is free");
            };
            self.lent.insert(number.clone(), id.clone());
            Some(number)
        } else {
            None
        };
        let created = self.now();
        let transfer = MockTransfer {
            request: request.clone(),
            number,
            created,
            expires: created + self.settings.life.as_millis() as i64,
            expired: false,
            received: None,
            completed: None,
            output: None,
            lagging: 0,
        };
        let body = transfer.view();
        self.transfers.insert(id.clone(), transfer);
        self.order.push_back(id);
        if self.order.len() > MAX_TRANSFERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.release(&oldest);
            self.transfers.remove(&oldest);
        }
        Reply { status: 200, retry_after: None, body }
    }

    pub(super) fn fetch(&mut self, id: &str) -> Reply {
        self.expire();
        self.go_on(id);
        let Some(transfer) = self.transfers.get_mut(id) else {
            return self.error(404, "no such transfer");
        };
        let body = transfer.view();
        transfer.lagging = transfer.lagging.saturating_sub(u32::from(transfer.completed.is_some()));
        Reply { status: 200, retry_after: None, body }
    }

    /// What a transfer does by itself under [`Behaviour::auto_complete`].
    fn go_on(&mut self, id: &str) {
        let Some(auto) = self.behaviour.auto_complete.clone() else { return };
        let Some(age) = self.transfers.get(id).map(|transfer| self.now() - transfer.created) else { return };
        if age >= auto.ongoing_after_ms as i64 {
            self.receive(id);
        }
        if age >= auto.completed_after_ms as i64 {
            self.complete(id, auto.output);
        }
    }

    pub(super) fn call_received(&mut self, number: &str) -> Option<TransferInfo> {
        let holder = self.holder(number)?;
        self.receive(&holder.id);
        Some(holder)
    }

    /// The transfer this number belongs to now; one of type `SIP` is known by its id.
    pub(super) fn holder(&mut self, number: &str) -> Option<TransferInfo> {
        self.expire();
        let by_sip = self.transfers.get(number).is_some_and(|transfer| transfer.number.is_none());
        let id = match self.lent.get(&format!("+{}", number.trim_start_matches('+'))) {
            Some(id) => id.clone(),
            None => by_sip.then(|| number.to_owned())?,
        };
        let request = &self.transfers.get(&id)?.request;
        let input = &request["inputContext"];
        Some(TransferInfo {
            id,
            conversation: request["externalConversationId"].as_str().unwrap_or_default().to_owned(),
            task: input["taskName"].as_str().map(str::to_owned),
            variables: input["inputVariables"].as_object().cloned().unwrap_or_default(),
        })
    }

    pub(super) fn completed(&mut self, number_or_id: &str, output: Option<Value>) -> bool {
        let number = format!("+{}", number_or_id.trim_start_matches('+'));
        let reached = |id: &&String| {
            self.transfers.get(*id).is_some_and(|t| t.received.is_some() && t.number.as_ref() == Some(&number))
        };
        let known = self.transfers.contains_key(number_or_id).then(|| number_or_id.to_owned());
        let Some(id) = known.or_else(|| self.order.iter().rev().find(reached).cloned()) else {
            return false;
        };
        self.complete(&id, output);
        true
    }

    fn receive(&mut self, id: &str) {
        self.release(id);
        let now = self.now();
        if let Some(transfer) = self.transfers.get_mut(id) {
            transfer.received.get_or_insert(now);
        }
    }

    /// Completes a transfer, once.
    fn complete(&mut self, id: &str, output: Option<Value>) {
        self.receive(id);
        let (now, lagging) = (self.now(), self.behaviour.ongoing_polls);
        let output = output.or_else(|| self.behaviour.default_output.clone());
        if let Some(transfer) = self.transfers.get_mut(id)
            && transfer.completed.is_none()
        {
            (transfer.completed, transfer.output, transfer.lagging) = (Some(now), output, lagging);
        }
    }

    /// Takes the numbers back whose time is over.
    fn expire(&mut self) {
        let now = self.now();
        let over = |id: &&String| self.transfers.get(*id).is_some_and(|transfer| transfer.expires <= now);
        let ids: Vec<String> = self.lent.values().filter(over).cloned().collect();
        for id in ids {
            self.release(&id);
            if let Some(transfer) = self.transfers.get_mut(&id) {
                transfer.expired = true;
            }
        }
    }

    /// The transfer's number, if it still has one, may be given to somebody else.
    fn release(&mut self, id: &str) {
        let Some(number) = self.transfers.get(id).and_then(|transfer| transfer.number.clone()) else { return };
        if self.lent.get(&number).is_none_or(|holder| holder != id) {
            return;
        }
        self.lent.remove(&number);
        if self.settings.reuse {
            self.free.push_front(number);
        } else {
            self.free.push_back(number);
        }
    }
}

/// What the API's description demands of a create request.
fn check(request: &Value) -> Result<(), &'static str> {
    let given = |name: &str| request[name].as_str().is_some_and(|text| !text.is_empty());
    if !given("id") || !given("externalConversationId") {
        return Err("id and externalConversationId are required");
    }
    match request["type"].as_str() {
        Some("PHONE_NUMBER") => {
            let country = request["phoneNumber"]["country"].as_str().unwrap_or_default();
            if country.len() != 2 || !country.bytes().all(|c| c.is_ascii_uppercase()) {
                return Err("phoneNumber.country is not ISO 3166 alpha-2");
            }
        }
        Some("SIP") => {
            let sip = &request["sip"];
            let uri = sip["returnURI"].as_str().or(sip["returnUri"].as_str()).unwrap_or_default();
            if matches!(sip["returnTransferType"].as_str(), Some("REFER" | "INVITE")) && uri.is_empty() {
                return Err("sip.returnURI is required");
            }
            if uri.len() > 1024 {
                return Err("sip.returnURI is longer than 1,024 characters");
            }
        }
        _ => return Err("type is neither PHONE_NUMBER nor SIP"),
    }
    let variables = &request["inputContext"]["inputVariables"];
    match variables.as_object() {
        Some(variables) if variables.values().all(Value::is_string) => Ok(()),
        None if variables.is_null() => Ok(()),
        Some(_) | None => Err("inputContext.inputVariables is not an object of strings"),
    }
}

/// JSON merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(members) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            members.shift_remove(name);
        } else {
            merge(members.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

pub(super) fn iso(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms).unwrap_or_default().to_string()
}

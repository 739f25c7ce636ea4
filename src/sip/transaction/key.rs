//! Which transaction a message belongs to (RFC 3261 section 17.1.3 and 17.2.3).

use crate::sip::ids::MAGIC_COOKIE;
use crate::sip::message::{HeaderName, Message, Method};

/// The key of a client transaction: our branch and the method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientKey {
    branch: String,
    method: Method,
}

impl ClientKey {
    /// The key of a request with this branch.
    pub fn new(branch: &str, method: Method) -> Self {
        Self { branch: branch.to_owned(), method }
    }

    /// The key of the CANCEL for the INVITE of this key: the same branch (RFC 3261 section 9.1).
    pub fn cancel(&self) -> Self {
        Self { branch: self.branch.clone(), method: Method::Cancel }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The key that a response names.
    pub fn of_response(response: &Message) -> Option<Self> {
        Some(Self::new(response.via()?.branch()?, response.cseq()?.method))
    }
}

/// The key of a server transaction. An ACK has the key of its INVITE.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerKey(String);

impl ServerKey {
    /// The key of a request. A branch without the magic cookie identifies nothing by itself; then the fields of
    /// RFC 2543 do.
    pub fn of_request(request: &Message) -> Option<Self> {
        Self::with_method(request, request.method()?)
    }

    /// The key of the INVITE that this CANCEL would cancel (RFC 3261 section 9.2).
    pub fn of_cancelled(cancel: &Message) -> Option<Self> {
        Self::with_method(cancel, &Method::Invite)
    }

    fn with_method(request: &Message, method: &Method) -> Option<Self> {
        let method = if *method == Method::Ack { "INVITE" } else { method.as_str() };
        let via = request.via()?;
        let host = via.host.to_ascii_lowercase();
        let port = via.port.unwrap_or(5060);
        Some(Self(match via.branch() {
            Some(branch) if branch.len() > MAGIC_COOKIE.len() && branch.starts_with(MAGIC_COOKIE) => {
                format!("{branch}|{host}:{port}|{method}")
            }
            _ => format!(
                "2543|{}|{}|{}|{}|{host}:{port}|{method}",
                request.call_id()?,
                request.from_tag(),
                request.cseq()?.number,
                request.header(HeaderName::Via)?,
            ),
        }))
    }
}

/// What makes two INVITEs outside a dialog the same call attempt on two paths (RFC 3261 section 8.2.2.2), and finds
/// the INVITE of a CANCEL whose Via was rewritten on the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    call_id: String,
    from_tag: String,
    cseq: u32,
}

impl AttemptKey {
    /// The key of a request.
    pub fn of_request(request: &Message) -> Option<Self> {
        Some(Self {
            call_id: request.call_id()?.to_owned(),
            from_tag: request.from_tag().to_owned(),
            cseq: request.cseq()?.number,
        })
    }
}

//! From octets to positions: the start line, each header line and the body of one message (RFC 3261 section 7).
//!
//! Lenient where the field is: bare LF line ends, folded lines, blanks before the colon, leading empty lines.
//! The head becomes text once; a fold and an octet that is not UTF-8 are mended in it, length kept. What a line's name
//! means is found once, too, so that looking a header up compares numbers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::header::HeaderName;

/// Most header lines of one message.
pub const MAX_HEADERS: usize = 200;
/// Longest head, octets: an answer that repeats what it must of it still fits a datagram.
pub const MAX_HEAD: usize = 32_768;
/// Longest message, octets.
pub const MAX_MESSAGE: usize = 65_535;

/// Why octets are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing that looks like a start line.
    NotSip,
    /// Longer than [`MAX_MESSAGE`], or its head than [`MAX_HEAD`].
    TooLarge,
    /// More header lines than [`MAX_HEADERS`].
    TooManyHeaders,
    /// A header line without a colon or with an impossible name.
    BadHeader,
    /// No empty line after the headers.
    Unterminated,
}

/// A position in the head, which is at most 64 KiB long: 32 bits are plenty.
pub type Span = Range<u32>;

/// One header line by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderLine {
    /// The name as written.
    pub name: Span,
    /// The value without surrounding blanks.
    pub value: Span,
    /// What the name is, if this program knows it.
    pub known: Option<HeaderName>,
}

/// A message by position, over its own head.
#[derive(Debug, Clone)]
pub struct Index {
    /// The text the spans point into, from the start line to the empty line and without folds.
    pub head: Arc<str>,
    /// The start line, without its line end.
    pub start: Span,
    /// Header lines in order.
    pub headers: SmallVec<[HeaderLine; 20]>,
    /// Everything behind the empty line.
    pub body: Bytes,
    /// The first fault met; the index then holds what was found before it.
    pub fault: Option<Fault>,
}

impl Index {
    /// The text of a span of the head.
    pub fn text(&self, span: &Span) -> &str {
        text(&self.head, span)
    }
}

/// The text of a span of a head; every span ends beside an ASCII octet.
pub(super) fn text<'a>(head: &'a str, span: &Span) -> &'a str {
    head.get(span.start as usize..span.end as usize).unwrap_or_default()
}

/// Cuts one message. Fails only where nothing can be answered; a message that begins well and then breaks is
/// returned with its `fault`, so that a 400 can be built from what was found.
pub fn index(mut bytes: Bytes) -> Result<Index, Fault> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Fault::TooLarge);
    }
    let begin = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).ok_or(Fault::NotSip)?;
    let octets = bytes.split_off(begin);
    let bounds = Bounds::find(&octets);
    if bounds.head_end > MAX_HEAD {
        return Err(Fault::TooLarge);
    }
    let head = checked(&octets[..bounds.body_start.unwrap_or(octets.len())], &bounds);
    let (start, mut at) = line(&head, 0, bounds.head_end);
    if !text(&head, &start).contains("SIP/") {
        return Err(Fault::NotSip);
    }
    let mut headers = SmallVec::new();
    let mut fault = bounds.body_start.is_none().then_some(Fault::Unterminated);
    while at < bounds.head_end {
        let (span, next) = line(&head, at, bounds.head_end);
        at = next;
        if span.is_empty() {
            continue;
        }
        if headers.len() == MAX_HEADERS {
            return Err(Fault::TooManyHeaders);
        }
        match header(&head, &span) {
            Some(found) => headers.push(found),
            None => fault = fault.or(Some(Fault::BadHeader)),
        }
    }
    let body = octets.slice(head.len()..);
    Ok(Index { head, start, headers, body, fault })
}

fn span(start: usize, end: usize) -> Span {
    start as u32..end as u32
}

/// Where the parts of a message are.
struct Bounds {
    /// Behind the last header line, its line end included.
    head_end: usize,
    /// Behind the empty line, if there is one.
    body_start: Option<usize>,
    /// Whether a line goes on in the next one.
    folded: bool,
}

impl Bounds {
    fn find(octets: &[u8]) -> Self {
        let (mut at, mut folded) = (0, false);
        while let Some(offset) = octets[at..].iter().position(|&b| b == b'\n') {
            let next = at + offset + 1;
            match &octets[next..] {
                [b'\r', b'\n', ..] => return Self { head_end: next, body_start: Some(next + 2), folded },
                [b'\n', ..] => return Self { head_end: next, body_start: Some(next + 1), folded },
                [b' ' | b'\t', ..] => folded = true,
                _ => {}
            }
            at = next;
        }
        Self { head_end: octets.len(), body_start: None, folded }
    }
}

/// The head as text, mended where it must be.
fn checked(head: &[u8], bounds: &Bounds) -> Arc<str> {
    match std::str::from_utf8(head) {
        Ok(text) if !bounds.folded && !head.contains(&0) => text.into(),
        _ => mended(head.to_vec(), bounds.head_end).into(),
    }
}

/// Unfolds lines and replaces octets that are not UTF-8, length kept.
fn mended(mut head: Vec<u8>, head_end: usize) -> String {
    for at in 0..head_end {
        let next_is_blank = at + 1 < head_end && matches!(head[at + 1], b' ' | b'\t');
        if head[at] == b'\n' && next_is_blank {
            head[at] = b' ';
            head[at + 1] = b' ';
            if at > 0 && head[at - 1] == b'\r' {
                head[at - 1] = b' ';
            }
        } else if head[at] == 0 {
            head[at] = b'?';
        }
    }
    let mut text = String::with_capacity(head.len());
    for chunk in head.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

/// The line that starts at `at`, without its end, and where the next one starts.
fn line(head: &str, at: usize, head_end: usize) -> (Span, usize) {
    let rest = &head.as_bytes()[at..head_end];
    let end = rest.iter().position(|&b| b == b'\n').map_or(head_end, |offset| at + offset);
    let text_end = if end > at && head.as_bytes()[end - 1] == b'\r' { end - 1 } else { end };
    (span(at, text_end), (end + 1).min(head_end))
}

fn header(head: &str, line: &Span) -> Option<HeaderLine> {
    let (start, end, octets) = (line.start as usize, line.end as usize, head.as_bytes());
    let colon = start + octets[start..end].iter().position(|&b| b == b':')?;
    let name_end = start + octets[start..colon].iter().rposition(|b| !matches!(b, b' ' | b'\t'))? + 1;
    if !octets[start..name_end].iter().all(|&b| is_token(b)) {
        return None;
    }
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let value = &octets[colon + 1..end];
    let first = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let last = value.iter().rposition(|b| !blank(b)).map_or(first, |last| last + 1);
    let (name, value) = (span(start, name_end), span(colon + 1 + first, colon + 1 + last));
    let known = HeaderName::read(text(head, &name));
    Some(HeaderLine { name, value, known })
}

/// Whether the octet may stand in a token (RFC 3261 section 25.1).
pub fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(index: &Index) -> Vec<(&str, &str)> {
        index.headers.iter().map(|h| (index.text(&h.name), index.text(&h.value))).collect()
    }

    #[test]
    fn folds_blanks_and_bare_line_feeds_are_read() {
        let index =
            index(Bytes::from_static(b"\r\nOPTIONS sip:a SIP/2.0\nSubject :  one\r\n\ttwo \r\nX-Empty:\r\n\r\nbody"))
                .unwrap();
        assert_eq!(index.text(&index.start), "OPTIONS sip:a SIP/2.0");
        assert_eq!(texts(&index), [("Subject", "one   two"), ("X-Empty", "")]);
        assert_eq!(&index.body[..], b"body");
        assert_eq!(index.fault, None);
    }

    #[test]
    fn octets_outside_utf8_and_nul_become_question_marks() {
        let index = index(Bytes::from_static(b"OPTIONS sip:a SIP/2.0\r\nA: J\xe9r\0me\r\n\r\n\xff\0")).unwrap();
        assert_eq!(texts(&index), [("A", "J?r?me")]);
        assert_eq!(&index.body[..], b"\xff\0", "the body is not touched");
    }

    #[test]
    fn what_breaks_later_is_kept_up_to_there() {
        let broken = index(Bytes::from_static(b"OPTIONS sip:a SIP/2.0\r\nVia: x\r\nno colon here\r\n\r\n")).unwrap();
        assert_eq!(broken.fault, Some(Fault::BadHeader));
        assert_eq!(texts(&broken), [("Via", "x")]);
        assert_eq!(index(Bytes::from_static(b"\r\n\r\n")).unwrap_err(), Fault::NotSip);
        assert_eq!(index(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")).unwrap_err(), Fault::NotSip);
    }

    #[test]
    fn heads_beyond_the_limits_are_not_read() {
        let mut text = b"OPTIONS sip:a SIP/2.0\r\n".to_vec();
        for _ in 0..5_000 {
            text.extend_from_slice(b"A: b\r\n");
        }
        text.extend_from_slice(b"\r\n");
        assert_eq!(index(Bytes::from(text)).unwrap_err(), Fault::TooManyHeaders);
        let long = format!("OPTIONS sip:a SIP/2.0\r\nA: {}\r\n\r\n", "b".repeat(MAX_HEAD));
        assert_eq!(index(Bytes::from(long)).unwrap_err(), Fault::TooLarge);
    }
}

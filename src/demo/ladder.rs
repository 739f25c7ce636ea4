//! A call drawn as a ladder, one line a message, 100 columns wide.
//!
//! Pure: a line is made from a [`Step`] alone, so that the same drawing serves a live terminal and a golden file.

use std::fmt::Write;
use std::time::Duration;

const WIDTH: usize = 100;
const LINE: char = '│';

/// Who sends or receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// The IVR that holds the customer's call.
    Customer,
    /// We.
    Switchback,
    /// GenerativeAgent, behind the carrier.
    GenAgent,
    /// ASAPP's API.
    Asapp,
}

impl Column {
    const ALL: [Self; 4] = [Self::Customer, Self::Switchback, Self::GenAgent, Self::Asapp];

    fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer (IVR)",
            Self::Switchback => "switchback",
            Self::GenAgent => "GenerativeAgent",
            Self::Asapp => "ASAPP",
        }
    }

    fn place(self) -> usize {
        9 + 30 * self as usize
    }
}

/// One arrow; with `from` and `to` alike it is a remark beside that column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Time since the call began.
    pub at: Duration,
    /// The sender.
    pub from: Column,
    /// The receiver.
    pub to: Column,
    /// What is written on the arrow.
    pub label: String,
}

/// The names above the columns.
pub fn header() -> String {
    let mut cells = vec![' '; WIDTH];
    for column in Column::ALL {
        let name = column.name();
        let start = (column.place() - name.len() / 2).min(WIDTH - name.len());
        write_at(&mut cells, start, name);
    }
    finish(&cells)
}

/// A line without an arrow.
pub fn gap() -> String {
    finish(&lifelines())
}

/// One step as one line, without colour and without a line end.
pub fn line(step: &Step) -> String {
    let mut cells = lifelines();
    write_at(&mut cells, 0, &format!("{:>7.3}", step.at.as_secs_f64()));
    if step.from == step.to {
        remark(&mut cells, step);
    } else {
        arrow(&mut cells, step);
    }
    finish(&cells)
}

/// One step as one line for a terminal: the time is dim, a refusal red, an answer green, a goodbye yellow.
pub fn coloured(step: &Step) -> String {
    let plain = line(step);
    let colour = match step.label.as_bytes() {
        [b'4'..=b'6', b'0'..=b'9', b'0'..=b'9', ..] => 31,
        [b'2', b'0'..=b'9', b'0'..=b'9', ..] => 32,
        [b'B', b'Y', b'E', ..] | [b'C', b'A', b'N', ..] => 33,
        _ => 36,
    };
    let (time, rest) = plain.split_at(7);
    let label = fitted(&step.label, room(step));
    match rest.split_once(label.as_str()).filter(|_| !label.is_empty()) {
        Some((before, after)) => format!("\x1b[2m{time}\x1b[0m{before}\x1b[{colour}m{label}\x1b[0m{after}"),
        None => plain,
    }
}

fn lifelines() -> Vec<char> {
    let mut cells = vec![' '; WIDTH];
    Column::ALL.iter().for_each(|column| cells[column.place()] = LINE);
    cells
}

/// How many characters of label fit.
fn room(step: &Step) -> usize {
    let (left, right) = (step.from.min(step.to).place(), step.from.max(step.to).place());
    // Lifelines at both ends, an arrow head, and a blank on either side; a remark has the gap beside its column.
    if left == right { 27 } else { right - left - 4 }
}

fn arrow(cells: &mut [char], step: &Step) {
    let (left, right) = (step.from.min(step.to).place(), step.from.max(step.to).place());
    for (at, cell) in cells.iter_mut().enumerate().take(right).skip(left + 1) {
        let crossing = Column::ALL.iter().any(|column| column.place() == at);
        *cell = if crossing { '┼' } else { '─' };
    }
    if step.from < step.to {
        cells[right - 1] = '▶';
    } else {
        cells[left + 1] = '◀';
    }
    let label = format!(" {} ", fitted(&step.label, room(step)));
    // An arrow over more than one gap carries its label in the gap beside the sender.
    let (left, right) = if right - left == 30 || label.chars().count() > 28 {
        (left, right)
    } else if step.from < step.to {
        (left, left + 30)
    } else {
        (right - 30, right)
    };
    let (length, head) = (label.chars().count(), usize::from(step.from > step.to));
    write_at(cells, left + 1 + head + (right - left - 2 - length) / 2, &label);
}

fn remark(cells: &mut [char], step: &Step) {
    let label = fitted(&step.label, room(step));
    let place = step.from.place();
    let start = if step.from == Column::Asapp { place - 1 - label.chars().count() } else { place + 2 };
    write_at(cells, start, &label);
}

fn fitted(label: &str, room: usize) -> String {
    if label.chars().count() <= room {
        return label.to_owned();
    }
    label.chars().take(room - 1).chain(['…']).collect()
}

fn write_at(cells: &mut [char], start: usize, text: &str) {
    cells.iter_mut().skip(start).zip(text.chars()).for_each(|(cell, character)| *cell = character);
}

fn finish(cells: &[char]) -> String {
    cells.iter().collect::<String>().trim_end().to_owned()
}

/// The label of a SIP message: `INVITE sdp`, `180`, `200 sdp`, `200 BYE`, `BYE Reason: Q.850;cause=16`. `None` if the
/// octets are no SIP message.
pub fn label(message: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let start = lines.next()?;
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |names: [&str; 2]| {
        let named = |(name, _): &&(&str, &str)| names.iter().any(|wanted| name.trim().eq_ignore_ascii_case(wanted));
        headers.iter().find(named).map(|(_, value)| value.trim())
    };
    let method = header(["CSeq", "CSeq"])?.split_whitespace().nth(1)?;
    let mut label = match start.strip_prefix("SIP/2.0 ") {
        Some(status) if method == "INVITE" => status.get(..3)?.to_owned(),
        Some(status) => format!("{} {method}", status.get(..3)?),
        None => start.split(' ').next()?.to_owned(),
    };
    if !body.is_empty() && header(["Content-Type", "c"]).is_some_and(|kind| kind.starts_with("application/sdp")) {
        label.push_str(" sdp");
    }
    if let Some(reason) = header(["Reason", "Reason"]) {
        let brief: Vec<&str> = reason.split(';').map(str::trim).filter(|part| !part.starts_with("text=")).collect();
        let _ = write!(label, " Reason: {}", brief.join(";"));
    }
    Some(label)
}

/// A telephone number by its first two and last four characters: `+1•••0199`. A short one is kept.
pub fn masked(number: &str) -> String {
    let digits: Vec<char> = number.chars().collect();
    if digits.len() <= 6 {
        return number.to_owned();
    }
    let (start, end) = (&digits[..2], &digits[digits.len() - 4..]);
    start.iter().copied().chain("•••".chars()).chain(end.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::Column::{Asapp, Customer, GenAgent, Switchback};
    use super::*;

    fn drawn(millis: u64, from: Column, to: Column, label: &str) -> String {
        line(&Step { at: Duration::from_millis(millis), from, to, label: label.to_owned() })
    }

    #[test]
    fn a_ladder_is_drawn_to_the_letter() {
        let lines = [
            header(),
            gap(),
            drawn(0, Customer, Switchback, "INVITE sdp"),
            drawn(1, Switchback, Customer, "100"),
            drawn(4, Switchback, Asapp, "POST call-transfers"),
            drawn(120, Asapp, Switchback, &format!("200 {}", masked("+19995550199"))),
            drawn(121, Switchback, GenAgent, "INVITE sdp"),
            drawn(1_204, GenAgent, Switchback, "200 sdp"),
            drawn(61_250, GenAgent, GenAgent, "\"Let me look that up\""),
            drawn(62_000, Asapp, Asapp, "COMPLETED AGENT"),
            drawn(62_001, Switchback, Customer, "BYE Reason: Q.850;cause=16"),
            drawn(62_002, Customer, Switchback, "a label that is far too long for its gap"),
            drawn(62_003, Switchback, Asapp, "a label that is too long for one gap, but not for two"),
        ];
        let expected = r#"
  customer (IVR)                  switchback                  GenerativeAgent                  ASAPP
         │                             │                             │                             │
  0.000  │──────── INVITE sdp ────────▶│                             │                             │
  0.001  │◀─────────── 100 ────────────│                             │                             │
  0.004  │                             │─── POST call-transfers ─────┼────────────────────────────▶│
  0.120  │                             │◀────────────────────────────┼─────── 200 +1•••0199 ───────│
  0.121  │                             │──────── INVITE sdp ────────▶│                             │
  1.204  │                             │◀───────── 200 sdp ──────────│                             │
 61.250  │                             │                             │ "Let me look that up"       │
 62.000  │                             │                             │             COMPLETED AGENT │
 62.001  │◀ BYE Reason: Q.850;cause=16 │                             │                             │
 62.002  │ a label that is far too l… ▶│                             │                             │
 62.003  │                             │─ a label that is too long for one gap, but not for two ──▶│"#;
        let actual = format!("\n{}", lines.join("\n"));
        assert_eq!(actual, expected, "{actual}\n");
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn colour_changes_no_character() {
        let step = Step { at: Duration::ZERO, from: Customer, to: Switchback, label: "BYE".to_owned() };
        let stripped =
            ["\x1b[2m", "\x1b[33m", "\x1b[0m"].iter().fold(coloured(&step), |text, code| text.replace(code, ""));
        assert_eq!(stripped, line(&step));
    }

    #[test]
    fn labels_are_read_from_messages() {
        let cases = [
            ("INVITE sip:a@b SIP/2.0\r\nCSeq: 1 INVITE\r\nc: application/sdp\r\n\r\nv=0\r\n", "INVITE sdp"),
            ("SIP/2.0 100 Trying\r\nCSeq: 1 INVITE\r\n\r\n", "100"),
            ("SIP/2.0 200 OK\r\nCSeq: 1 INVITE\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n", "200 sdp"),
            ("SIP/2.0 200 OK\r\nCSeq: 2 BYE\r\n\r\n", "200 BYE"),
            (
                "BYE sip:a@b SIP/2.0\r\nCSeq: 2 BYE\r\nReason: Q.850 ;cause=16 ;text=\"Bye\"\r\n\r\n",
                "BYE Reason: Q.850;cause=16",
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(label(message.as_bytes()).as_deref(), Some(expected));
        }
        assert_eq!(label(b"\x80\0garbage"), None);
    }

    #[test]
    fn numbers_are_masked() {
        assert_eq!([masked("+19995550199"), masked("911")], ["+1•••0199", "911"]);
    }
}

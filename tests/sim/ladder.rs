//! Every simulated call drawn as a ladder, and the ladders that are kept: `sip-fixtures/ladders/`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use switchback::b2bua::io::{ApiOperation, ApiReply, ApiRequest, MediaCommand};
use switchback::demo::ladder::{self, Column, Step};

use crate::engine::{QUEUE, address};
use crate::text::Sip;

pub struct Ladder {
    /// Each step with the Call-ID it belongs to, if it is a message.
    steps: Vec<(String, Step)>,
    ivr: SocketAddr,
    carrier: SocketAddr,
    /// Whether to draw: a chaos run draws only its second time, when it has failed.
    pub drawing: bool,
}

impl Ladder {
    pub fn new(ivr: SocketAddr, carrier: SocketAddr) -> Self {
        Self { steps: Vec::new(), ivr, carrier, drawing: true }
    }

    fn add(&mut self, at: Duration, from: Column, to: Column, label: impl FnOnce() -> String) {
        if self.drawing {
            self.steps.push((String::new(), Step { at, from, to, label: label() }));
        }
    }

    fn column(&self, party: SocketAddr) -> Column {
        if party == self.carrier || party == address(QUEUE) { Column::GenAgent } else { Column::Customer }
    }

    fn label(&self, party: SocketAddr, octets: &[u8]) -> String {
        let label = ladder::label(octets).unwrap_or_else(|| "noise".to_owned());
        match party {
            _ if party == self.carrier || party == self.ivr => label,
            _ if party == address(QUEUE) => format!("{label} (queue)"),
            _ => format!("{label} (stranger)"),
        }
    }

    pub fn received(&mut self, at: Duration, peer: SocketAddr, octets: &[u8]) {
        self.message(at, self.column(peer), Column::Switchback, peer, octets);
    }

    pub fn sent(&mut self, at: Duration, peer: SocketAddr, octets: &[u8]) {
        self.message(at, Column::Switchback, self.column(peer), peer, octets);
    }

    fn message(&mut self, at: Duration, from: Column, to: Column, peer: SocketAddr, octets: &[u8]) {
        if self.drawing {
            let call_id = Sip::read(octets).map(|sip| sip.call_id().to_owned()).unwrap_or_default();
            self.steps.push((call_id, Step { at, from, to, label: self.label(peer, octets) }));
        }
    }

    pub fn asked(&mut self, at: Duration, request: &ApiRequest) {
        let label = match request.operation {
            ApiOperation::Create(_) => "POST call-transfers",
            ApiOperation::Fetch => "GET call-transfers",
        };
        self.add(at, Column::Switchback, Column::Asapp, || label.to_owned());
    }

    pub fn replied(&mut self, at: Duration, reply: &ApiReply) {
        self.add(at, Column::Asapp, Column::Switchback, || match &reply.answer {
            Ok(transfer) => {
                let status = transfer.status.as_ref().map_or("", |status| status.as_str());
                let number = transfer.number.as_deref().map(ladder::masked).unwrap_or_default();
                let kind = transfer.output.as_ref().and_then(|output| output.transfer_type.clone()).unwrap_or_default();
                ["200", status, &number, &kind].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
            }
            Err(failure) => failure.status.map_or(failure.detail.clone(), |status| status.to_string()),
        });
    }

    pub fn media(&mut self, at: Duration, command: &MediaCommand) {
        match command {
            MediaCommand::Bridge(..) => self.remark(at, "audio: bridged"),
            MediaCommand::Play { sound, .. } => self.remark(at, &format!("audio: {sound:?} plays")),
            MediaCommand::Cover { sound: Some((sound, _)), .. } => self.remark(at, &format!("audio: {sound:?} covers")),
            MediaCommand::Cover { sound: None, .. } => self.remark(at, "audio: uncovered"),
            MediaCommand::Expect { .. }
            | MediaCommand::Secure { .. }
            | MediaCommand::Hold { .. }
            | MediaCommand::Events { .. }
            | MediaCommand::Press { .. }
            | MediaCommand::Law { .. }
            | MediaCommand::Watch { .. }
            | MediaCommand::Record { .. }
            | MediaCommand::Pause { .. }
            | MediaCommand::EndRecording { .. }
            | MediaCommand::Close(_) => {}
        }
    }

    pub fn remark(&mut self, at: Duration, text: &str) {
        self.add(at, Column::Switchback, Column::Switchback, || text.to_owned());
    }

    pub fn drawn(&self) -> String {
        draw(self.steps.iter().map(|(_, step)| step))
    }

    /// Only the dialogs whose Call-ID stands in this text; all of them where none does.
    pub fn drawn_about(&self, text: &str) -> String {
        let named = |(id, _): &&(String, Step)| !id.is_empty() && text.contains(id.as_str());
        match self.steps.iter().any(|step| named(&step)) {
            true => draw(self.steps.iter().filter(named).map(|(_, step)| step)),
            false => self.drawn(),
        }
    }
}

fn draw<'a>(steps: impl Iterator<Item = &'a Step>) -> String {
    let all: Vec<String> = [ladder::header(), ladder::gap()].into_iter().chain(steps.map(ladder::line)).collect();
    all.join("\n") + "\n"
}

/// Compares a text with the one that is committed; `UPDATE_LADDERS=1` commits it.
pub fn compare(path: &str, drawn: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_LADDERS").is_some() {
        std::fs::write(&path, drawn).expect("the fixture can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if kept != drawn {
        let line = kept.lines().zip(drawn.lines()).position(|(a, b)| a != b).map_or(0, |line| line + 1);
        panic!("{} differs from line {line} on; UPDATE_LADDERS=1 keeps the new one:\n{drawn}", path.display());
    }
}

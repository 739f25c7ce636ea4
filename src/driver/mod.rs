//! The loop between the core and the world: one task, one core. It decides nothing.

pub mod resolve;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod udp;

use std::future;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::b2bua::B2bua;
use crate::b2bua::io::{
    ApiReply, ApiRequest, Change, Datagram, Input, MediaCommand, MediaEvent, OperatorCommand, Output,
};
use crate::b2bua::io::{Look, PublishedContext, Question as DnsQuestion, Transport};
use crate::call::record::CallRecord;
use crate::clock;
use stream::{Arrival, Streams};
use udp::Udp;

/// Something to look up in, or do to, the core between two inputs.
pub type Question = Box<dyn FnOnce(&mut B2bua, Instant) + Send>;

/// What reaches the core besides SIP.
#[derive(Debug)]
pub struct Arrivals {
    /// Answers of ASAPP's API.
    pub api: mpsc::UnboundedReceiver<ApiReply>,
    /// Answers of the DNS.
    pub looks: mpsc::UnboundedReceiver<Look>,
    /// Reports of the relay.
    pub media: mpsc::UnboundedReceiver<MediaEvent>,
    /// Wishes of operators.
    pub operators: mpsc::UnboundedReceiver<OperatorCommand>,
    /// Look-ups.
    pub questions: mpsc::Receiver<Question>,
}

/// The hands of the core. None of them may block.
pub trait Hands {
    /// Ask ASAPP; the answer comes back through [`Arrivals`].
    fn ask_asapp(&mut self, request: ApiRequest);
    /// Ask the DNS; the answer comes back through [`Arrivals`].
    fn look(&mut self, question: DnsQuestion);
    /// Tell the relay.
    fn tell_media(&mut self, command: MediaCommand);
    /// Keep a context.
    fn publish(&mut self, context: PublishedContext);
    /// Write down what is remembered of a conversation.
    fn remember(&mut self, change: Change);
    /// Write a record.
    fn record(&mut self, record: Box<CallRecord>);
    /// A SIP message passed, in or out; for captures.
    fn seen(&mut self, _at: Instant, _from: SocketAddr, _to: SocketAddr, _bytes: &Bytes) {}
}

/// Datagrams taken from the socket before everything else gets its turn.
const BATCH: usize = 64;

/// Runs the core until it has closed.
pub async fn drive(
    mut core: B2bua,
    udp: Udp,
    mut streams: Streams,
    mut arrivals: Arrivals,
    hands: &mut (impl Hands + Send),
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut buffer = vec![0; udp::LONGEST];
    loop {
        if drain(&mut core, &udp, &mut streams, hands) {
            return;
        }
        let timeout = core.next_timeout();
        let timer = async move {
            match timeout {
                Some(at) => sleep_until(at.into()).await,
                None => future::pending().await,
            }
        };
        let input = tokio::select! {
            () = udp.receive(&mut buffer, &mut batch, BATCH) => None,
            arrival = streams.next() => heard(&mut streams, &udp, arrival, hands),
            () = timer => Some(Input::TimeReached),
            Some(reply) = arrivals.api.recv() => Some(Input::Asapp(reply)),
            Some(look) = arrivals.looks.recv() => Some(Input::Looked(look)),
            Some(event) = arrivals.media.recv() => Some(Input::Media(event)),
            Some(command) = arrivals.operators.recv() => Some(Input::Operator(command)),
            Some(question) = arrivals.questions.recv() => {
                question(&mut core, clock::now());
                continue;
            }
        };
        if let Some(input) = input {
            core.handle_input(clock::now(), input);
        }
        for (peer, bytes) in batch.drain(..) {
            let now = clock::now();
            hands.seen(now, peer, udp.address(), &bytes);
            core.handle_input(
                now,
                Input::Received(Datagram { transport: Transport::Udp, peer, otherwise: None, bytes }),
            );
            if drain(&mut core, &udp, &mut streams, hands) {
                return;
            }
        }
    }
}

/// What a stream brought, as the core hears it.
fn heard(streams: &mut Streams, udp: &Udp, arrival: Arrival, hands: &mut impl Hands) -> Option<Input> {
    match streams.take(arrival) {
        Some(Input::Received(datagram)) => {
            let own = streams.address(datagram.transport).unwrap_or(udp.address());
            hands.seen(clock::now(), datagram.peer, own, &datagram.bytes);
            Some(Input::Received(datagram))
        }
        other => other,
    }
}

/// Does what the core wants. True when it has closed.
fn drain(core: &mut B2bua, udp: &Udp, streams: &mut Streams, hands: &mut impl Hands) -> bool {
    let mut closed = false;
    while let Some(output) = core.poll_output() {
        match output {
            Output::Transmit(datagram) => {
                hands.seen(clock::now(), udp.address(), datagram.peer, &datagram.bytes);
                match datagram.transport {
                    Transport::Udp => udp.send(&datagram.bytes, datagram.peer),
                    Transport::Tcp | Transport::Tls => streams.send(datagram),
                }
            }
            Output::Asapp(request) => hands.ask_asapp(request),
            Output::Look(question) => hands.look(question),
            Output::Named(address, domain) => streams.name(address, domain),
            Output::Media(command) => hands.tell_media(command),
            Output::Publish(context) => hands.publish(*context),
            Output::Remember(change) => hands.remember(change),
            Output::Record(record) => hands.record(record),
            Output::Closed => closed = true,
        }
    }
    streams.forget_broken();
    closed
}

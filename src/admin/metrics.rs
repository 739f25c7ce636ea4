//! Counters as Prometheus reads them. Base units are seconds; no label holds an id.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Surroundings;
use crate::b2bua::counters::{Counters, Histogram};
use crate::call::verdict::Outcome;

/// What [`render`] writes.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of one scrape.
pub(super) fn render(counters: Counters, around: Surroundings) -> String {
    let mut registry = Registry::with_prefix("switchback");
    registry.register_collector(Box::new(Scrape { counters, around }));
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut page, &registry);
    page
}

#[derive(Debug)]
struct Scrape {
    counters: Counters,
    around: Surroundings,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { counters: c, around } = self;
        let mut page = Page(encoder);
        page.info("build", "The program", &[("version", env!("CARGO_PKG_VERSION"))])?;

        page.gauge("active_calls", "Calls in memory", c.active_calls)?;
        page.gauge("active_legs", "Legs in memory", c.active_legs)?;
        page.gauge("active_transactions", "SIP transactions in memory", c.active_transactions)?;
        page.gauge("active_timers", "Timers set", c.active_timers)?;
        page.gauge("active_dialogs", "Dialogs and tombstones in memory", c.active_dialogs)?;
        let ports = [("free", c.ports_free), ("lent", c.ports_lent), ("draining", c.ports_draining)];
        page.gauges("port_pairs", "RTP port pairs", ports.map(|(state, count)| ([("state", state)], count)))?;
        page.gauge("breaker_open", "1 while ASAPP's API is left alone", c.breaker_open)?;
        page.gauge("credentials_refused", "1 while ASAPP refuses our credentials: alarm", c.credentials_refused)?;
        page.gauge("draining", "1 while no new call is taken", c.draining)?;
        page.gauge("conversations_remembered", "Conversations that may be resumed", c.conversations_remembered)?;
        page.gauge("inputs_laid_down", "Inputs that wait for their call", c.inputs_laid_down)?;
        page.gauge("conversations_onward", "Conversations whose customer we dialled on", c.conversations_onward)?;
        page.gauge(
            "conversations_failing",
            "1 while remembered conversations cannot be written down",
            around.conversations_failing.into(),
        )?;
        page.gauge("recordings_active", "Calls that are recorded", around.recordings_active)?;
        page.gauge("recordings_bytes", "Octets in the folder of recordings", around.recordings_bytes)?;
        page.gauge(
            "recordings_failing",
            "1 while the folder of recordings is full or cannot be written: alarm",
            around.recordings_failing.into(),
        )?;
        page.gauge("records_failing", "1 while call records cannot be written", around.records_failing.into())?;

        page.counter(
            "media_kernel_drops",
            "Media packets that the kernel dropped because the queue of a socket was full",
            around.media_kernel_drops,
        )?;
        page.counter(
            "udp_refused",
            "Datagrams to this machine that no socket wanted: strangers who send to the media port of a talking call are among them",
            around.udp_refused,
        )?;
        page.counter(
            "recordings_frames_lost",
            "Packets left out of recordings because the disk did not keep up",
            around.recordings_frames_lost,
        )?;
        page.counter("calls", "Calls taken", c.calls)?;
        let outcomes = Outcome::ALL.map(|o| ([("outcome", o.as_str())], c.outcomes.get(&o).copied().unwrap_or(0)));
        page.counters("calls_ended", "Calls ended, by verdict", outcomes)?;
        let rejected = c.rejected.iter().map(|(reason, count)| ([("reason", *reason)], *count));
        page.counters("calls_rejected", "Calls refused before intake", rejected)?;
        let requests = c.requests_received.iter().map(|(method, count)| ([("method", *method)], *count));
        page.counters("sip_requests_received", "SIP requests received", requests)?;
        page.counter("sip_unreadable", "SIP messages that could not be read", c.unreadable)?;
        page.counter("sip_unlisted", "Messages from sources not on the access list", c.unlisted)?;
        page.counter("sip_over_rate", "Messages dropped because their source sent too many", c.over_rate)?;
        page.counter("sip_challenged", "Requests that were asked for credentials", c.challenged)?;
        page.counter("sip_retransmissions", "SIP messages sent again", c.retransmissions)?;
        let api =
            c.api.iter().map(|((operation, result), count)| ([("operation", *operation), ("result", *result)], *count));
        page.counters("api_exchanges", "Exchanges with ASAPP's API", api)?;
        let servers = c.trunk_servers.iter().map(|server| {
            ([("trunk", server.trunk.as_str()), ("server", server.server.as_str())], u64::from(server.up))
        });
        page.gauges("trunk_up", "1 while calls go to this server", servers)?;
        let calls = c.trunk_calls.iter().map(|(trunk, calls)| ([("trunk", trunk.as_str())], *calls));
        page.gauges("trunk_calls", "Calls that each trunk carries", calls)?;
        let (registered, wanted) = c.registrations;
        page.gauge("registrations_missing", "Trunks where we should be registered and are not", wanted - registered)?;
        page.counter("failovers", "INVITEs sent another way because the first one failed", c.failovers)?;
        let fallbacks = c.fallbacks.iter().map(|((why, rung), n)| ([("reason", why.as_str()), ("rung", *rung)], *n));
        page.counters("fallback", "Customers who did not reach GenerativeAgent, by what took them", fallbacks)?;
        page.counter("misdirected", "Legs cut because the number led to somebody else", c.misdirected)?;
        page.counter("numbers_unused", "Numbers that arrived when nobody wanted them any more", c.numbers_unused)?;
        page.counter("breaker_openings", "Times the circuit breaker opened", c.breaker_openings)?;
        page.counter("records_written", "Call records written", around.records_written)?;
        page.counter("records_lost", "Call records lost", around.records_lost)?;
        page.counter(
            "conversations_written",
            "Changes to remembered conversations on disk",
            around.conversations_written,
        )?;
        page.counter("conversations_groups", "Groups they were written in", around.conversations_groups)?;
        page.counter("conversations_lost", "Changes that did not reach the disk", around.conversations_lost)?;
        page.counter("log_lines_dropped", "Log lines dropped", around.log_lines_dropped)?;

        page.histogram("setup", "From the INVITE to the customer's 200", &c.setup)?;
        page.histogram("conversation", "From the customer's 200 to the verdict", &c.conversation)?;
        page.histogram("hand_back", "From GenerativeAgent's BYE to the customer's hand-back", &c.hand_back)
    }
}

/// One line of code per metric.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets.iter().copied()).collect();
        let count = histogram.buckets.iter().sum();
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(histogram.sum, count, &buckets, None)
    }
}

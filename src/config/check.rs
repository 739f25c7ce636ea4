//! What cannot work, and what probably is not meant. Every sentence names the key and the fix.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use secrecy::ExposeSecret;

use super::words::span;
use super::{
    ClientAuth, Config, Destination, Recording, Sip, WayWord, peer, profile, returns, routes, trunk, user, webhook,
};
use crate::b2bua::headers::may_cross;
use crate::b2bua::io::PAIRS_A_CALL;
use crate::b2bua::settings::Returns;
use crate::call::settings::ContextSettings;
use crate::sdp::Family;
use crate::sip::hop::Transport;

/// Reasons to refuse this configuration; empty when it can be used.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    durations(config, &mut problems);
    numbers(config, &mut problems);
    addresses(config, &mut problems);
    trunk::problems(config, &mut problems);
    user::problems(config, &mut problems);
    peer::problems(config, &mut problems);
    asapp(config, &mut problems);
    returns::problems(config, &mut problems);
    routes::problems(config, &mut problems);
    profile::problems(config, &mut problems);
    webhook::problems(config, &mut problems);
    headers(config, &mut problems);
    recording(config, &mut problems);
    crossing(config, &mut problems);
    problems
}

/// Oddities to mention at start.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let Config { sip, media, trunk, asapp, call, .. } = config;
    let mut warnings = Vec::new();
    if sip.access.is_empty() {
        warnings.push("nobody can call us: name your IVR in sip.access".to_owned());
    }
    let outside =
        |text: &str| !text.starts_with("127.") && !text.starts_with("localhost") && !text.starts_with("[::1]");
    if let Some((name, trunk)) = trunk.iter().find(|(_, trunk)| outside(&trunk.address)) {
        // Where a name leads is known when it is dialled.
        let but = format!("is on loopback, and trunk.{name} may not be, at {}", trunk.address.escape_debug());
        if sip.listen.iter().all(|listen| listen.ip().is_loopback()) {
            warnings.push(format!("sip.listen {but}: write the address that others send to"));
        }
        if media.address.iter().all(IpAddr::is_loopback) {
            warnings.push(format!("media.address {but}: write the address that others send sound to"));
        }
    }
    if sip.access.iter().any(|network| network.prefix == 0) {
        warnings.push("everybody can call us: sip.access holds a network of prefix length 0".to_owned());
    }
    for (name, _) in trunk.iter().filter(|(_, trunk)| trunk.caller_id == "anonymous") {
        warnings
            .push(format!("trunk.{name}.caller_id is \"anonymous\": many carriers refuse that; write your own number"));
    }
    for family in [Family::V4, Family::V6] {
        let heard = config.listeners().iter().any(|listener| Family::of(listener.here.ip()) == family);
        if heard && !media.address.iter().any(|address| Family::of(*address) == family) {
            warnings.push(format!("callers with {family} media get 488: media.address holds no {family} address"));
        }
    }
    let room = media.ports.pairs() / PAIRS_A_CALL;
    if room < sip.max_calls {
        let most = sip.max_calls;
        warnings.push(format!("media.ports has room for {room} calls, sip.max_calls allows {most}: the rest get 503"));
    }
    if asapp.base_url.starts_with("http://") && asapp.way == WayWord::Api {
        warnings
            .push("asapp.base_url is not encrypted: credentials and what customers say travel in the open".to_owned());
    }
    if asapp.way == WayWord::Headers && trunk.values().all(|trunk| trunk.returns != Returns::Refer) {
        warnings.push(
            "asapp.way = \"headers\" and no trunk has return = \"refer\": GenerativeAgent's context never reaches us, and \
             every call that it ends is unspecified"
                .to_owned(),
        );
    }
    if asapp.timeout > call.number_budget {
        warnings.push("asapp.timeout is longer than call.number_budget: the budget ends the exchange first".to_owned());
    }
    if call.escape.len() == 1 {
        warnings.push(
            "call.escape is a single key: whoever presses it for GenerativeAgent leaves it; write two keys".to_owned(),
        );
    }
    if call.release_limit < sip.t1 * 64 {
        warnings
            .push("call.release_limit is below 64 × sip.t1: a lost BYE ends a record before its last word".to_owned());
    }
    if !config.headers.hide_topology {
        warnings.push("headers.hide_topology is false: each side sees the host names of the other".to_owned());
    }
    let lists = config.headers.lists();
    if lists.iter().any(|(_, names)| names.iter().any(|name| name.eq_ignore_ascii_case("Identity"))) {
        warnings.push(
            "headers lets Identity pass: it is signed for a From that is not ours, and proves nothing".to_owned(),
        );
    }
    warnings.extend(routes::warnings(config));
    if config.conversations.by_caller {
        warnings.push(
            "conversations.by_caller is on: a caller's number can be forged, and many people may share one; only where \
             the network vouches for numbers does it name a conversation safely"
                .to_owned(),
        );
    }
    if config.records.path == Destination::Nowhere {
        warnings.push("records.path is \"none\": no call leaves a record".to_owned());
    }
    warnings
}

fn recording(config: &Config, problems: &mut Vec<String>) {
    let Recording { when, max_megabytes, .. } = &config.recording;
    if config.recording.folder().is_none() && !when.is_empty() {
        problems.push(
            "[[recording.when]] names calls to be recorded and recording.path no place for it: write a folder"
                .to_owned(),
        );
    }
    if !(1..=1 << 30).contains(max_megabytes) {
        problems.push(format!("recording.max_megabytes = {max_megabytes} is no bound: write 10240 for 10 GB"));
    }
}

fn durations(config: &Config, problems: &mut Vec<String>) {
    let Config { sip, media, asapp, call, sounds, conversations, .. } = config;
    let (ms, s, h) = (Duration::from_millis, Duration::from_secs, |hours: u64| Duration::from_secs(hours * 3600));
    let limits = [
        ("sip.t1", sip.t1, ms(10), s(10)),
        ("sip.t2", sip.t2, sip.t1, s(60)),
        ("sip.t4", sip.t4, sip.t1, s(60)),
        ("sip.session_expires", sip.session_expires, Duration::ZERO, h(24)),
        ("sip.session_least", sip.session_least, s(90), h(24)),
        ("sip.drain_limit", sip.drain_limit, Duration::ZERO, h(24)),
        ("sip.connection_idle", sip.connection_idle, s(10), h(24)),
        ("sip.keepalive", sip.keepalive, Duration::ZERO, h(1)),
        ("sip.message_time", sip.message_time, ms(100), s(60)),
        ("sip.connect_timeout", sip.connect_timeout, ms(50), s(30)),
        ("sip.retry_after", sip.retry_after, s(1), h(1)),
        ("media.timeout", media.timeout, s(1), h(1)),
        ("media.quarantine", media.quarantine, ms(100), s(600)),
        ("asapp.connect_timeout", asapp.connect_timeout, ms(50), s(60)),
        ("asapp.timeout", asapp.timeout, ms(50), s(60)),
        ("asapp.breaker_open_for", asapp.breaker_open_for, ms(100), h(1)),
        ("call.number_budget", call.number_budget, ms(100), s(120)),
        ("call.expiry_margin", call.expiry_margin, Duration::ZERO, h(1)),
        ("call.default_lifetime", call.default_lifetime, s(1), h(1)),
        ("call.ring_limit", call.ring_limit, s(1), s(600)),
        ("call.verify_after", call.verify_after, Duration::ZERO, s(60)),
        ("call.collect_limit", call.collect_limit, Duration::ZERO, s(60)),
        ("call.max_duration", call.max_duration, s(1), h(24)),
        ("call.release_limit", call.release_limit, s(1), s(600)),
        ("call.dwell_limit", call.dwell_limit, Duration::ZERO, s(600)),
        ("call.escape_pause", call.escape_pause, ms(100), s(60)),
        ("call.ladder_limit", call.ladder_limit, s(1), s(600)),
        ("sounds.announcement_limit", sounds.announcement_limit, s(1), s(600)),
        ("sounds.max_length", sounds.max_length, s(1), h(1)),
        ("recording.beep", config.recording.beep, Duration::ZERO, h(1)),
        ("conversations.resume_window", conversations.resume_window, Duration::ZERO, h(24 * 30)),
        ("conversations.input_window", conversations.input_window, Duration::ZERO, h(24)),
    ];
    if !config.recording.beep.is_zero() && config.recording.beep < s(1) {
        problems.push("recording.beep is below a second: write \"15s\", or \"0s\" for no tone".to_owned());
    }
    let expires = sip.session_expires;
    if !expires.is_zero() && expires < sip.session_least {
        problems.push(
            "sip.session_expires is below sip.session_least: write \"30m\", or \"0s\" for no session timer".to_owned(),
        );
    }
    for (key, value, least, most) in limits {
        if !(least..=most).contains(&value) {
            let [value, least, most] = [value, least, most].map(span::format);
            problems.push(format!("{key} = \"{value}\" is out of range: write \"{least}\" to \"{most}\""));
        }
    }
    if call.expiry_margin >= call.default_lifetime {
        let [margin, lifetime] = [call.expiry_margin, call.default_lifetime].map(span::format);
        problems.push(format!(
            "call.expiry_margin = \"{margin}\" leaves nothing of call.default_lifetime = \"{lifetime}\": \
             no number could ever be dialled; write a smaller margin, such as \"5s\""
        ));
    }
}

fn numbers(config: &Config, problems: &mut Vec<String>) {
    let Config { sip, media, call, intake, .. } = config;
    let limits = [
        ("sip.max_calls", sip.max_calls, 1, 1_000_000),
        ("sip.max_calls_per_second", sip.max_calls_per_second as usize, 1, 100_000),
        ("sip.max_messages_per_source", sip.max_messages_per_source as usize, 0, 1_000_000),
        ("sip.max_calls_per_second_per_source", sip.max_calls_per_second_per_source as usize, 0, 100_000),
        ("sip.max_transactions", sip.max_transactions, 100, 10_000_000),
        ("sip.max_connections", sip.max_connections, 1, 1_000_000),
        ("sip.max_connections_per_source", sip.max_connections_per_source, 1, 1_000_000),
        ("media.workers", media.workers.into(), 0, 64),
        ("media.dscp", media.dscp.into(), 0, 63),
        ("call.max_attempts", call.max_attempts.into(), 1, 10),
        ("conversations.max", config.conversations.max, 1, 1_000_000),
        ("conversations.max_inputs", config.conversations.max_inputs, 1, 100_000),
        ("intake.max_variables", intake.max_variables, 0, 256),
        ("intake.max_value", intake.max_value, 1, 16_384),
    ];
    let limits = limits.map(|(key, value, least, most)| (key.to_owned(), value, least, most));
    for (key, value, least, most) in limits.into_iter().chain(contexts(config).flat_map(context_numbers)) {
        if !(least..=most).contains(&value) {
            problems.push(format!("{key} = {value} is out of range: write {least} to {most}"));
        }
    }
    let ports = media.ports;
    if ports.first % 2 == 1 || ports.last % 2 == 0 {
        let (first, last) = (ports.first.saturating_add(1) & !1, ports.last.saturating_sub(1) | 1);
        problems.push(format!(
            "media.ports = \"{}-{}\" splits a pair: RTP is even and RTCP is the odd port above it; write \"{first}-{last}\"",
            ports.first, ports.last
        ));
    } else if ports.first < 1024 || ports.pairs() < PAIRS_A_CALL {
        problems.push(format!(
            "media.ports = \"{}-{}\" is too small: a call takes six ports above 1023; write \"20000-29999\"",
            ports.first, ports.last
        ));
    } else if let Some(sip) = sip.listen.iter().find(|sip| (ports.first..=ports.last).contains(&sip.port())) {
        problems.push(format!("media.ports contains the SIP port {}: move one of them", sip.port()));
    }
}

/// `[context]` and every profile, each with its section.
fn contexts(config: &Config) -> impl Iterator<Item = (String, &ContextSettings)> {
    let profiles = config.profile.iter().map(|(name, row)| (format!("profile.{name}"), &row.context));
    [("context".to_owned(), &config.context)].into_iter().chain(profiles)
}

fn context_numbers((section, context): (String, &ContextSettings)) -> Vec<(String, usize, usize, usize)> {
    let causes = context.causes.iter();
    let causes = causes.map(|(outcome, cause)| (format!("{section}.causes.{outcome}"), usize::from(*cause), 1, 127));
    [
        ("max_variables", context.max_variables, 0, 64),
        ("max_value", context.max_value, 1, 4096),
        ("max_total", context.max_total, 1, 8192),
        ("max_lines", context.max_lines, 300, 16_384),
        ("max_invite_lines", context.max_invite_lines, 300, 16_384),
        // Avaya's form has one octet for the length.
        ("max_uui", context.max_uui, 32, 255),
    ]
    .map(|(key, value, least, most)| (format!("{section}.{key}"), value, least, most))
    .into_iter()
    .chain(causes)
    .collect()
}

fn addresses(config: &Config, problems: &mut Vec<String>) {
    let Config { sip, media, admin, .. } = config;
    let hosts = |listen: &[SocketAddr]| listen.iter().map(SocketAddr::ip).collect::<Vec<_>>();
    let sip_told: Vec<IpAddr> = sip.advertise.iter().map(|advertised| advertised.address).collect();
    for (key, own, advertise, told) in [
        ("sip.listen", &hosts(&sip.listen), "sip.advertise", &sip_told),
        ("sip.tcp_listen", &hosts(&sip.tcp_listen), "sip.advertise", &sip_told),
        ("sip.tls_listen", &hosts(&sip.tls_listen), "sip.advertise", &sip_told),
        ("media.address", &media.address, "media.advertise", &media.advertise),
    ] {
        one_of_each_family(key, own, problems);
        answerable(key, own, advertise, told, problems);
    }
    let heard: Vec<IpAddr> = config.listeners().iter().map(|listener| listener.here.ip()).collect();
    for (key, told, listen, own) in [
        ("sip.advertise", &sip_told, "sip.listen", &heard),
        ("media.advertise", &media.advertise, "media.address", &media.address),
    ] {
        one_of_each_family(key, told, problems);
        advertised(key, told, listen, own, problems);
    }
    for (key, empty) in [("sip.listen", sip.listen.is_empty()), ("media.address", media.address.is_empty())] {
        if empty {
            problems.push(format!("{key} is empty: write an address of this machine"));
        }
    }
    if sip.product.is_empty() || sip.product.chars().any(|c| !c.is_ascii_graphic() && c != ' ') {
        problems.push("sip.product is not a header value: write plain letters, \"switchback/1\"".to_owned());
    }
    for listener in config.listeners().iter().filter(|listener| listener.told.port() == 0) {
        let key = Sip::key(listener.transport);
        problems.push(format!("{key} has port 0: write a port, such as 5060 or 5061"));
    }
    tls(config, problems);
    if sip.tcp_for_long && sip.tcp_listen.is_empty() {
        problems.push("sip.tcp_for_long needs a way back: write sip.tcp_listen = \"ADDRESS:5060\"".to_owned());
    }
    if !admin.listen.ip().is_loopback() && admin.token.expose_secret().is_empty() {
        problems.push(format!(
            "admin.listen = \"{}\" is open to the network and asks for no token: write admin.token_file, or listen on 127.0.0.1",
            admin.listen
        ));
    }
}

fn one_of_each_family(key: &str, addresses: &[IpAddr], problems: &mut Vec<String>) {
    for family in [Family::V4, Family::V6] {
        if addresses.iter().filter(|address| Family::of(**address) == family).count() > 1 {
            problems.push(format!("{key} holds more than one {family} address: write one of each IP family at most"));
        }
    }
}

/// A socket on every address of the machine needs one that peers are told.
fn answerable(key: &str, own: &[IpAddr], advertise: &str, told: &[IpAddr], problems: &mut Vec<String>) {
    for address in own.iter().filter(|address| address.is_unspecified()) {
        if !told.iter().any(|told| told.is_ipv4() == address.is_ipv4()) {
            problems.push(format!(
                "{key} is {address}, which no peer can answer to: write {advertise} = \"the address peers reach us at\""
            ));
        }
    }
}

fn advertised(key: &str, told: &[IpAddr], listen: &str, own: &[IpAddr], problems: &mut Vec<String>) {
    for address in told {
        let family = Family::of(*address);
        if address.is_unspecified() {
            problems.push(format!("{key} is {address}: write the address peers reach us at"));
        } else if !own.iter().any(|own| Family::of(*own) == family) {
            problems.push(format!(
                "{key} holds {address} and {listen} no {family} address: write one there, or leave this one out"
            ));
        }
    }
}

fn tls(config: &Config, problems: &mut Vec<String>) {
    let sip = &config.sip;
    if sip.tls_certificate.is_some() != sip.tls_key.is_some() {
        problems.push("sip.tls_certificate and sip.tls_key go together: write both, or neither".to_owned());
    }
    let tls = (!sip.tls_listen.is_empty()).then_some(Transport::Tls);
    if config.media.untold(config.media.srtp, tls).is_some() {
        problems.push(
            "media.srtp = \"require\" tells its keys over TLS: write sip.tls_listen, or media.srtp_without_tls = true \
             where nobody reads along"
                .to_owned(),
        );
    }
    if !sip.tls_listen.is_empty() && sip.tls_certificate.is_none() {
        problems.push(
            "sip.tls_listen needs a certificate: write sip.tls_certificate and sip.tls_key, two PEM files".to_owned(),
        );
    }
    if sip.tls_listen.iter().any(|tls| sip.tcp_listen.contains(tls)) {
        problems.push("sip.tls_listen and sip.tcp_listen are the same: write another port, 5061 for TLS".to_owned());
    }
    if sip.tls_client_auth != ClientAuth::None && sip.tls_ca.is_none() {
        problems.push(
            "sip.tls_client_auth needs to know whom to believe: write sip.tls_ca, a PEM file of certificate authorities"
                .to_owned(),
        );
    }
}

fn asapp(config: &Config, problems: &mut Vec<String>) {
    let asapp = &config.asapp;
    for (key, secret, file) in [
        ("asapp.api_id", &asapp.api_id, &asapp.api_id_file),
        ("asapp.api_secret", &asapp.api_secret, &asapp.api_secret_file),
    ] {
        // A file that could not be read has been reported already.
        if asapp.way_in().asks_api() && file.is_none() && secret.expose_secret().is_empty() {
            problems
                .push(format!("{key} is missing: write {key}_file = \"/run/secrets/…\", or set it in the environment"));
        }
        if secret.expose_secret().chars().any(|c| !c.is_ascii_graphic()) {
            problems.push(format!("{key} holds a character that no HTTP header may carry: copy it again"));
        }
    }
    let url = &asapp.base_url;
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if host.is_none_or(|host| host.is_empty() || host.contains(['@', '?', '#']) || host.contains(char::is_whitespace)) {
        problems.push(format!("asapp.base_url = \"{url}\" is not a base URL: write \"https://api.asapp.com\""));
    } else if url.starts_with("http://") && !asapp.allow_http {
        problems.push(format!(
            "asapp.base_url = \"{url}\" is not encrypted: write https://, or allow_http = true for a mock on your desk"
        ));
    }
    let country = &asapp.country;
    if country.len() != 2 || !country.chars().all(|c| c.is_ascii_uppercase()) {
        problems.push(format!("asapp.country = \"{country}\" is not a country: write two capital letters, \"US\""));
    }
    if !asapp.sip_uri.is_empty() && !super::routes::is_sip_uri(&asapp.sip_uri) {
        problems.push(format!(
            "asapp.sip_uri = \"{}\" is no SIP URI: write what ASAPP gave you, \"sip:genagent@sip.example.com\"",
            asapp.sip_uri
        ));
    }
    if asapp.way == WayWord::Headers && asapp.sip_uri.is_empty() {
        problems.push(
            "asapp.way = \"headers\" has nobody to call: write asapp.sip_uri, what ASAPP gave you, or way = \"api\""
                .to_owned(),
        );
    }
    if asapp.number_prefixes.is_empty() {
        problems.push("asapp.number_prefixes is empty: no number could be dialled; write [\"+1\"]".to_owned());
    }
    let is_prefix = |text: &str| {
        text.strip_prefix('+').is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()))
    };
    for (key, prefixes) in [("number_prefixes", &asapp.number_prefixes), ("barred_prefixes", &asapp.barred_prefixes)] {
        for prefix in prefixes.iter().filter(|prefix| !is_prefix(prefix)) {
            problems.push(format!("asapp.{key} holds \"{prefix}\": write a plus sign and digits, \"+1\""));
        }
    }
}

/// Headers that a dialog, its routing or its body live by; ours may not take their place.
const RESERVED: &[&str] = &[
    "accept",
    "allow",
    "allow-events",
    "authorization",
    "call-id",
    "contact",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-type",
    "cseq",
    "event",
    "expires",
    "from",
    "max-forwards",
    "min-expires",
    "min-se",
    "p-asserted-identity",
    "path",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-require",
    "rack",
    "reason",
    "record-route",
    "refer-to",
    "referred-by",
    "replaces",
    "require",
    "retry-after",
    "route",
    "rseq",
    "server",
    "service-route",
    "session-expires",
    "subscription-state",
    "supported",
    "to",
    "unsupported",
    "user-agent",
    "user-to-user",
    "via",
    "www-authenticate",
    // compact forms
    "b",
    "c",
    "e",
    "f",
    "i",
    "k",
    "l",
    "m",
    "o",
    "r",
    "s",
    "t",
    "u",
    "v",
    "x",
];

/// Configured header names, each with its key.
type Names<'a> = Vec<(String, &'a String)>;

fn headers(config: &Config, problems: &mut Vec<String>) {
    let intake = &config.intake;
    let read = vec![
        ("intake.conversation_header".to_owned(), &intake.conversation_header),
        ("intake.task_header".to_owned(), &intake.task_header),
        ("intake.customer_header".to_owned(), &intake.customer_header),
    ];
    names(&read, &vec![("intake.variable_prefix".to_owned(), &intake.variable_prefix)], problems);
    let told = ("recording.header".to_owned(), &config.recording.header);
    names(&[told].into_iter().filter(|(_, name)| !name.is_empty()).collect(), &Vec::new(), problems);
    let mut said: Vec<String> = Vec::new();
    for (section, context) in contexts(config) {
        let key = |key: &str| format!("{section}.{key}");
        let sent = [
            (key("transfer_header"), &context.transfer_header),
            (key("conversation_header"), &context.conversation_header),
            (key("reference_header"), &context.reference_header),
            (key("outcome_header"), &context.outcome_header),
        ];
        let prefixes = vec![
            (key("transfer_prefix"), &context.transfer_prefix),
            (key("reference_prefix"), &context.reference_prefix),
        ];
        let mut own = Vec::new();
        // A header without a name is not sent.
        names(&sent.into_iter().filter(|(_, name)| !name.is_empty()).collect(), &prefixes, &mut own);
        // What [context] has been told is not repeated for every profile that inherits it.
        let bare = |problem: &String| problem.replace(&format!("{section}."), "");
        own.retain(|problem| !said.contains(&bare(problem)));
        said.extend(own.iter().map(bare));
        problems.extend(own);
    }
}

fn names(fixed: &Names<'_>, prefixes: &Names<'_>, problems: &mut Vec<String>) {
    for (key, name) in fixed.iter().chain(prefixes) {
        if name.is_empty() || !name.chars().all(is_token) {
            problems.push(format!(
                "{key} = \"{name}\" is not a header name: write letters, digits and dashes, \"X-GA-task\""
            ));
        }
    }
    for (key, name) in fixed {
        if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            problems.push(format!("{key} = \"{name}\" belongs to SIP itself: write a name of your own, \"X-…\""));
        }
    }
    for (key, prefix) in prefixes {
        let prefix = prefix.to_ascii_lowercase();
        if RESERVED.iter().any(|reserved| reserved.starts_with(&prefix)) {
            problems.push(format!(
                "{key} = \"{prefix}\" could spell a header of SIP itself: write a longer one, \"X-GA-tv-\""
            ));
        }
    }
    for ((key, prefix), (other, name)) in
        prefixes.iter().flat_map(|prefix| fixed.iter().map(move |name| (prefix, name)))
    {
        let starts = name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if starts && !prefix.is_empty() {
            problems.push(format!(
                "{key} = \"{prefix}\" lets a variable pass for {other} = \"{name}\": write a longer prefix"
            ));
        }
    }
    for (at, (key, name)) in fixed.iter().enumerate() {
        if let Some((other, _)) = fixed[..at].iter().find(|(_, earlier)| earlier.eq_ignore_ascii_case(name)) {
            problems.push(format!("{key} and {other} are both \"{name}\": give each a name of its own"));
        }
    }
}

fn crossing(config: &Config, problems: &mut Vec<String>) {
    let lists = config.headers.lists();
    for (list, name) in lists.iter().flat_map(|(list, names)| names.iter().map(move |name| (list, name))) {
        if name.is_empty() || !name.chars().all(is_token) {
            problems.push(format!("headers.{list} holds \"{name}\", which is not a header name: write \"Session-ID\""));
        } else if !may_cross(name) {
            problems.push(format!("headers.{list} holds \"{name}\", which belongs to SIP itself: leave it out"));
        }
    }
}

/// A character of RFC 3261's `token`.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c)
}

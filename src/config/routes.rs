//! Where customers go, looked at before there is one: what the rules do for every end of a call, and what they may not.

use super::Config;
use super::words::span;
use crate::call::rules::{DEFAULT_TARGET, Entry, Rule, Rung, built_in};
use crate::call::settings::{Answer, EntrySetting};
use crate::call::verdict::Outcome;
use crate::sip::hop::Transport;
use crate::sip::value::Uri;

/// Outcomes after which nobody is there to be handed back.
const WITHOUT_CUSTOMER: [Outcome; 3] = [Outcome::CustomerHungUp, Outcome::Drained, Outcome::RecoveredLost];

/// One thing that may be done for a call that ends in a certain way.
pub(super) struct Case<'a> {
    /// The rule, and its number counted from 1; none: what is done where no rule fits.
    rule: Option<(usize, &'a Rule)>,
    /// Its rungs that suit the call.
    rungs: Vec<Rung>,
    answered: bool,
    entry: Entry,
}

impl Case<'_> {
    /// On what it depends.
    pub(super) fn condition(&self) -> String {
        let words = self.rule.map(|(_, rule)| rule.when.conditions()).unwrap_or_default();
        if words.is_empty() { words } else { format!("if {words}: ") }
    }

    /// Its rungs, and how it ends when none serves.
    pub(super) fn worded(&self) -> String {
        let mut words: Vec<String> = self.rungs.iter().map(Rung::to_string).collect();
        if !self.rungs.last().is_some_and(Rung::is_last) {
            words.push(if self.answered { "BYE with the cause".to_owned() } else { "refuse:480".to_owned() });
        }
        let drops = if self.drops() { " (!)" } else { "" };
        format!("{}{drops}", words.join(", then "))
    }

    /// Whether it hangs up on a customer behind whom nobody waits.
    fn drops(&self) -> bool {
        self.entry == Entry::Redirected && self.rungs.contains(&Rung::Bye)
    }
}

/// How calls may come to us.
pub(super) fn entries(config: &Config) -> &'static [Entry] {
    match config.call.entry {
        EntrySetting::Detect => &[Entry::Supervised, Entry::Redirected],
        EntrySetting::Supervised => &[Entry::Supervised],
        EntrySetting::Redirected => &[Entry::Redirected],
    }
}

/// Whether the customer may not, and may, have been answered when a call ends so.
pub(super) fn stages(config: &Config, outcome: Outcome) -> impl Iterator<Item = bool> {
    let first = config.call.answer == Answer::First;
    let possible = move |answered: bool| match outcome {
        Outcome::NotConnected => answered == first,
        Outcome::Operator => answered || !first,
        _ => answered,
    };
    [false, true].into_iter().filter(move |answered| possible(*answered))
}

/// What may be done for a call that ends so, in the order in which it is looked for.
pub(super) fn cases(config: &Config, outcome: Outcome, answered: bool, entry: Entry) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for (at, rule) in config.rule.iter().enumerate().filter(|(_, rule)| rule.when.may_fit(outcome, answered, entry)) {
        let rungs = rule.ladder.iter().filter(|rung| rung.suits(answered)).cloned().collect();
        cases.push(Case { rule: Some((at + 1, rule)), rungs, answered, entry });
        if rule.when.conditions().is_empty() {
            return cases;
        }
    }
    let refuge = config.target.contains_key(DEFAULT_TARGET);
    cases.push(Case { rule: None, rungs: built_in(answered, entry, refuge), answered, entry });
    cases
}

/// Every case there is.
fn every_case(config: &Config) -> impl Iterator<Item = (Outcome, Case<'_>)> {
    let ends = Outcome::ALL.into_iter().filter(|outcome| !WITHOUT_CUSTOMER.contains(outcome));
    ends.flat_map(move |outcome| {
        let stages =
            stages(config, outcome).flat_map(|answered| entries(config).iter().map(move |entry| (answered, *entry)));
        stages
            .flat_map(move |(answered, entry)| cases(config, outcome, answered, entry))
            .map(move |case| (outcome, case))
    })
}

/// Reasons to refuse these rules and targets.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    for (name, row) in &config.target {
        target(config, name, row, problems);
    }
    for (at, rule) in config.rule.iter().enumerate() {
        shape(config, at + 1, rule, problems);
    }
    for number in 1..=config.rule.len() {
        let own = || every_case(config).filter(move |(_, case)| case.rule.is_some_and(|(at, _)| at == number));
        consequences(number, own, problems);
    }
    if config.call.entry == EntrySetting::Redirected
        && let Some((outcome, _)) = every_case(config).find(|(_, case)| case.rule.is_none() && case.drops())
    {
        problems.push(format!(
            "call.entry = \"redirected\", and a call that ends as {outcome} fits no rule: its BYE would hang up on the \
             customer; write [target.{DEFAULT_TARGET}] with its uri, where he is referred to, or else called, or end with a \
             [[rule]] without `when`, such as ladder = [\"refer:TARGET\", \"dial:TARGET\", \"refuse:480\"]"
        ));
    }
}

/// The webhooks that rules name, each with the rule's number.
pub(super) fn webhooks(config: &Config) -> impl Iterator<Item = (usize, &str)> {
    let rules = config.rule.iter().enumerate();
    rules.flat_map(|(at, rule)| rule.ladder.iter().filter_map(Rung::webhook).map(move |webhook| (at + 1, webhook)))
}

/// What a URI is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// We can call it ourselves, or ask somebody else to.
    Called,
    /// We can ask somebody else to call it.
    Referred,
}

fn kind(uri: &str) -> Option<Kind> {
    let uri = Uri::read(uri).filter(|uri| uri.headers.is_none() && uri.params.get("method").is_none())?;
    match uri.scheme {
        "sip" => Some(Kind::Called),
        "sips" => Some(Kind::Referred),
        "tel" => uri.user.filter(|number| is_number(number)).map(|_| Kind::Referred),
        _ => None,
    }
}

/// A telephone number as RFC 3966 spells it, global or local.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or(text);
    digits.bytes().any(|b| b.is_ascii_digit()) && digits.bytes().all(|b| b.is_ascii_digit() || b"-.()*#".contains(&b))
}

/// Whether this can be a Request-URI of ours.
pub(super) fn is_sip_uri(uri: &str) -> bool {
    kind(uri) == Some(Kind::Called)
}

fn target(config: &Config, name: &str, row: &super::Target, problems: &mut Vec<String>) {
    if row.uri.is_empty() {
        problems
            .push(format!("target.{name} has no uri: write uri = \"sip:queue@pbx.example.com\", or a list of them"));
    }
    for uri in row.uri.iter().filter(|uri| kind(uri).is_none()) {
        problems.push(format!("target.{name}.uri = \"{uri}\" is no SIP URI: write \"sip:queue@pbx.example.com\""));
    }
    let named = config.rule.iter().flat_map(|rule| &rule.ladder).cloned();
    let unnamed = built_in(true, Entry::Redirected, true);
    let mut others = named.chain(unnamed).filter(|rung| !matches!(rung, Rung::Refer(_)));
    if let Some(rung) = others.find(|rung| rung.target() == Some(name))
        && let Some(uri) = row.uri.iter().find(|uri| kind(uri) == Some(Kind::Referred))
    {
        problems.push(format!(
            "target.{name}.uri = \"{uri}\" is not for {rung}: only \"refer:{name}\" can do with it; write \
             \"sip:queue@pbx.example.com\", or name another target"
        ));
    }
    if let Some(address) = &row.address
        && super::trunk::place(address, row.transport).is_none()
    {
        problems.push(format!(
            "target.{name}.address = \"{address}\" is not a host, or a host and a port: write \"sbc.example.com:5060\" or \
             \"[2001:db8::1]:5060\""
        ));
    }
    if let Some(problem) = config.media.untold(row.srtp, row.transport) {
        problems.push(format!("target.{name}.{problem}"));
    }
    let (least, most) = (std::time::Duration::from_secs(1), config.call.ladder_limit);
    for (key, limit) in [("ring_limit", row.ring_limit), ("accept_limit", row.accept_limit), ("silence", row.silence)] {
        let never = key == "silence" && limit.is_zero();
        if !never && !(least..=most).contains(&limit) {
            let [is, least, most] = [limit, least, most].map(span::format);
            problems.push(format!(
                "target.{name}.{key} = \"{is}\" is out of range: write \"{least}\" to call.ladder_limit = \"{most}\""
            ));
        }
    }
    let lacks = match row.transport {
        None | Some(Transport::Udp) => None,
        Some(Transport::Tcp) => config.sip.tcp_listen.is_empty().then_some("sip.tcp_listen = \"ADDRESS:5060\""),
        Some(Transport::Tls) if config.sip.tls_listen.is_empty() => Some("sip.tls_listen = \"ADDRESS:5061\""),
        Some(Transport::Tls) => {
            config.sip.tls_ca.is_none().then_some("sip.tls_ca, a PEM file of certificate authorities")
        }
    };
    if let Some((fix, transport)) = lacks.zip(row.transport) {
        let transport = transport.as_str().to_ascii_lowercase();
        problems.push(format!("target.{name}.transport = \"{transport}\" needs {fix}"));
    }
}

/// What a rule may not look like, whatever it is for.
fn shape(config: &Config, number: usize, rule: &Rule, problems: &mut Vec<String>) {
    if rule.ladder.is_empty() {
        problems.push(format!("rule {number} has no ladder: write ladder = [\"bye\"], for one"));
    }
    for target in rule.ladder.iter().filter_map(Rung::target).filter(|target| !config.target.contains_key(*target)) {
        problems.push(format!(
            "rule {number} names the target `{target}`, which is not there: write [target.{target}] with its uri"
        ));
    }
    for answered in [false, true] {
        let mut rungs = rule.ladder.iter().filter(|rung| rung.suits(answered)).skip_while(|rung| !rung.is_last());
        if let (Some(last), Some(never)) = (rungs.next(), rungs.next()) {
            problems
                .push(format!("rule {number}: `{never}` is never reached behind `{last}`, which cannot fail: drop it"));
        }
    }
    for outcome in rule.when.outcome.iter().filter(|outcome| WITHOUT_CUSTOMER.contains(outcome)) {
        problems.push(format!("rule {number}: nobody is handed back after {outcome}: drop that outcome"));
    }
}

/// What a rule may not do to a customer.
fn consequences<'a, C>(number: usize, own: impl Fn() -> C, problems: &mut Vec<String>)
where
    C: Iterator<Item = (Outcome, Case<'a>)>,
{
    let Some((_, Case { rule: Some((_, rule)), .. })) = own().next() else {
        problems.push(format!(
            "rule {number} can never fit: an earlier rule takes every such call, or none ends so; move or drop it"
        ));
        return;
    };
    if rule.ladder.is_empty() {
        return; // Reported already.
    }
    if let Some((outcome, _)) = own().find(|(_, case)| case.drops()).filter(|_| !rule.allow_drop) {
        problems.push(format!(
            "rule {number} ends {outcome} of a redirected call in `bye`, which hangs up on the customer: write \
             when.entry = \"supervised\", end in another rung, or allow_drop = true"
        ));
    }
    if let Some((outcome, _)) = own().find(|(_, case)| case.answered && case.rungs.is_empty()) {
        problems.push(format!(
            "rule {number} has no rung for {outcome} of an answered call: add \"bye\", \"refer:TARGET\" or \"dial:TARGET\", or write \
             when.answered = false"
        ));
    }
    let silent = |(_, case): &(Outcome, Case<'_>)| !case.answered && !case.rungs.last().is_some_and(Rung::is_last);
    if let Some((outcome, _)) = own().find(silent) {
        problems.push(format!(
            "rule {number} gives {outcome} of an unanswered call no last answer: end it with \"refuse:480\" or \
             \"redirect:TARGET\", or write when.answered = true"
        ));
    }
}

/// What works, but probably not as meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let drops = every_case(config).any(|(_, case)| case.rule.is_none() && case.drops());
    if drops && config.call.entry == EntrySetting::Detect {
        return vec![format!(
            "a redirected call that fits no rule ends in a BYE, which hangs up on its customer: write \
             [target.{DEFAULT_TARGET}], where he is referred to, or else called; or a [[rule]] with when.entry = \
             \"redirected\", when.answered = true and ladder = [\"refer:TARGET\", \"dial:TARGET\"]"
        )];
    }
    Vec::new()
}

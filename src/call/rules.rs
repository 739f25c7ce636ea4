//! The rules: which ladder a customer is handed back by. The first rule that fits a call's end names its rungs.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::de::value::{Error as ValueError, StringDeserializer};
use serde::de::{Error, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::verdict::{NotConnected, Outcome};

/// A condition, and the ladder of who meets it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Whom it is for.
    pub when: Matcher,
    /// What is tried, in this order, until one serves. Rungs that do not suit a call are passed over: an answered
    /// customer cannot be refused, an unanswered one cannot be hung up on.
    #[serde(deserialize_with = "one_or_many")]
    pub ladder: Vec<Rung>,
    /// Whether a redirected customer, behind whom nobody waits, may be hung up on.
    pub allow_drop: bool,
}

/// What must be true of a call's end. An absent condition is met by everyone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Matcher {
    /// One of these outcomes.
    #[serde(deserialize_with = "one_or_many")]
    pub outcome: Vec<Outcome>,
    /// Not connected for one of these reasons.
    #[serde(deserialize_with = "one_or_many")]
    pub reason: Vec<NotConnected>,
    /// Whether the customer has been answered.
    pub answered: Option<bool>,
    /// How the call came to us.
    pub entry: Option<Entry>,
    /// The customer's side has one of these profiles.
    #[serde(deserialize_with = "one_or_many")]
    pub profile: Vec<Pattern>,
    /// One of these tasks: GenerativeAgent's last one, or else the one asked for.
    #[serde(deserialize_with = "one_or_many")]
    pub task: Vec<Pattern>,
    /// One of these transferTypes, compared without case.
    #[serde(deserialize_with = "one_or_many")]
    pub transfer_type: Vec<Pattern>,
    /// Each of these transferVariables is there with one of these values.
    #[serde(deserialize_with = "named_patterns")]
    pub variables: BTreeMap<String, Vec<Pattern>>,
}

/// A text in which `*` stands for anything and `?` for one character.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(pub String);

/// How a call came to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The IVR called us and waits behind its own leg.
    Supervised,
    /// The call was sent on to us; nobody is behind the customer's leg.
    Redirected,
}

/// One attempt to hand a customer back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rung {
    /// BYE, with the context: the IVR goes on. Only after the answer.
    Bye,
    /// Call this target, one of its URIs after the other, and bridge the customer to it.
    Dial(String),
    /// REFER the customer's side to this target, one of its URIs after the other. Only after the answer.
    Refer(String),
    /// The same as `Dial`, and then REFER the customer's side to take our place there. Only after the answer.
    ReferReplaces(String),
    /// A final response with this status: the IVR's own failure branch goes on. Only before the answer.
    Refuse(u16),
    /// 302 to the first URI of this target. Only before the answer.
    Redirect(String),
    /// Ask this webhook, and do what it says.
    Webhook(String),
}

/// Where a customer may be sent: a row of the configured table. Nothing else ever becomes a URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Tried in this order.
    pub uris: Vec<String>,
    /// How long each may ring, or may be silent about what becomes of a REFER to it.
    pub ring_limit: Duration,
    /// An INVITE without any answer for so long is given up for the next; zero: after `ring_limit`.
    pub silence: Duration,
    /// How long the customer's side may take to accept a REFER to it.
    pub accept_limit: Duration,
    /// What its INVITE carries, by the profile's name.
    pub profile: Option<String>,
}

/// The end of a call, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields are those of Matcher")]
pub struct Situation<'a> {
    pub outcome: Outcome,
    pub reason: Option<NotConnected>,
    pub answered: bool,
    pub entry: Entry,
    pub profile: Option<&'a str>,
    pub task: Option<&'a str>,
    pub transfer_type: Option<&'a str>,
    pub variables: &'a [(String, String)],
}

/// The target for redirected customers that no rule is for.
pub const DEFAULT_TARGET: &str = "default";

/// The rungs for this situation: those of the first rule that fits, or what is done where none does. `refuge`: whether
/// there is a [`DEFAULT_TARGET`].
pub fn ladder(rules: &[Rule], refuge: bool, situation: &Situation<'_>) -> VecDeque<Rung> {
    match rules.iter().find(|rule| rule.when.fits(situation)) {
        Some(rule) => rule.ladder.iter().filter(|rung| rung.suits(situation.answered)).cloned().collect(),
        None => built_in(situation.answered, situation.entry, refuge).into(),
    }
}

/// What is done where no rule fits.
pub fn built_in(answered: bool, entry: Entry, refuge: bool) -> Vec<Rung> {
    let target = || DEFAULT_TARGET.to_owned();
    match (answered, entry) {
        (false, Entry::Supervised | Entry::Redirected) => vec![Rung::Refuse(480)],
        (true, Entry::Redirected) if refuge => vec![Rung::Refer(target()), Rung::Dial(target())],
        (true, Entry::Supervised | Entry::Redirected) => vec![Rung::Bye],
    }
}

impl Matcher {
    /// Whether this situation meets every condition.
    pub fn fits(&self, situation: &Situation<'_>) -> bool {
        let Situation { outcome, reason, answered, entry, profile, task, transfer_type, variables } = *situation;
        let kind = transfer_type.map(str::to_ascii_uppercase);
        let value = |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        self.may_fit(outcome, answered, entry)
            && (self.reason.is_empty() || reason.is_some_and(|reason| self.reason.contains(&reason)))
            && (self.profile.is_empty() || profile.is_some_and(|profile| any(&self.profile, profile)))
            && (self.task.is_empty() || task.is_some_and(|task| any(&self.task, task)))
            && (self.transfer_type.is_empty()
                || kind.is_some_and(|kind| self.transfer_type.iter().any(|p| p.uppercase().matches(&kind))))
            && self.variables.iter().all(|(name, patterns)| value(name).is_some_and(|value| any(patterns, value)))
    }

    /// Whether a call that ends so meets the conditions that are known before any call: those on outcome, answer and
    /// entry.
    pub fn may_fit(&self, outcome: Outcome, answered: bool, entry: Entry) -> bool {
        (self.outcome.is_empty() || self.outcome.contains(&outcome))
            && (self.reason.is_empty() || outcome == Outcome::NotConnected)
            && self.answered.is_none_or(|wanted| wanted == answered)
            && self.entry.is_none_or(|wanted| wanted == entry)
    }

    /// The conditions that only a call can meet, in words; empty where there are none.
    pub fn conditions(&self) -> String {
        let listed = |patterns: &[Pattern]| patterns.iter().map(|p| p.0.as_str()).collect::<Vec<_>>().join(" or ");
        let mut words = Vec::new();
        if !self.reason.is_empty() {
            let reasons: Vec<&str> = self.reason.iter().map(|reason| reason.as_str()).collect();
            words.push(reasons.join(" or "));
        }
        if !self.profile.is_empty() {
            words.push(format!("profile {}", listed(&self.profile)));
        }
        if !self.task.is_empty() {
            words.push(format!("task {}", listed(&self.task)));
        }
        if !self.transfer_type.is_empty() {
            words.push(format!("transferType {}", listed(&self.transfer_type)));
        }
        words.extend(self.variables.iter().map(|(name, patterns)| format!("{name} {}", listed(patterns))));
        words.join(", ")
    }
}

pub(super) fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

impl Pattern {
    /// Whether it stands for this whole text.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text): (Vec<char>, Vec<char>) = (self.0.chars().collect(), text.chars().collect());
        let (mut p, mut t) = (0, 0);
        // The last star seen, and how far into the text it has been stretched.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(&c) if c == '?' || c == text[t] => (p, t) = (p + 1, t + 1),
                _ => match star {
                    Some((at, stretched)) => {
                        star = Some((at, stretched + 1));
                        (p, t) = (at + 1, stretched + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|&c| c == '*')
    }

    fn uppercase(&self) -> Self {
        Self(self.0.to_ascii_uppercase())
    }
}

impl Rung {
    /// Whether it can be tried on a customer who has, or has not, been answered.
    pub fn suits(&self, answered: bool) -> bool {
        match self {
            Self::Bye | Self::Refer(_) | Self::ReferReplaces(_) => answered,
            Self::Dial(_) | Self::Webhook(_) => true,
            Self::Refuse(_) | Self::Redirect(_) => !answered,
        }
    }

    /// Whether nothing comes after it: it cannot fail.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Dial(_) | Self::Refer(_) | Self::ReferReplaces(_) | Self::Webhook(_))
    }

    /// The target it names.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Dial(target) | Self::Refer(target) | Self::ReferReplaces(target) | Self::Redirect(target) => {
                Some(target)
            }
            Self::Bye | Self::Refuse(_) | Self::Webhook(_) => None,
        }
    }

    /// The webhook it names.
    pub fn webhook(&self) -> Option<&str> {
        match self {
            Self::Webhook(webhook) => Some(webhook),
            _ => None,
        }
    }

    /// What it does, in one word; for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::Dial(_) => "dial",
            Self::Refer(_) => "refer",
            Self::ReferReplaces(_) => "refer_replaces",
            Self::Refuse(_) => "refuse",
            Self::Redirect(_) => "redirect",
            Self::Webhook(_) => "webhook",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bye => f.write_str("bye"),
            Self::Dial(target) => write!(f, "dial:{target}"),
            Self::Refer(target) => write!(f, "refer:{target}"),
            Self::ReferReplaces(target) => write!(f, "refer_replaces:{target}"),
            Self::Refuse(status) => write!(f, "refuse:{status}"),
            Self::Redirect(target) => write!(f, "redirect:{target}"),
            Self::Webhook(webhook) => write!(f, "webhook:{webhook}"),
        }
    }
}

impl From<Rung> for String {
    fn from(rung: Rung) -> Self {
        rung.to_string()
    }
}

impl TryFrom<String> for Rung {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (word, what) = text.split_once(':').unwrap_or((&text, ""));
        match (word, what) {
            ("bye", "") => Ok(Self::Bye),
            ("dial", target) if !target.is_empty() => Ok(Self::Dial(target.to_owned())),
            ("refer", target) if !target.is_empty() => Ok(Self::Refer(target.to_owned())),
            ("refer_replaces", target) if !target.is_empty() => Ok(Self::ReferReplaces(target.to_owned())),
            ("redirect", target) if !target.is_empty() => Ok(Self::Redirect(target.to_owned())),
            ("webhook", webhook) if !webhook.is_empty() => Ok(Self::Webhook(webhook.to_owned())),
            ("refuse", status) if status.parse::<u16>().is_ok_and(|status| (400..700).contains(&status)) => {
                Ok(Self::Refuse(status.parse().unwrap_or(480)))
            }
            _ => Err(format!(
                "`{text}` is not a rung: write \"bye\", \"dial:TARGET\", \"refer:TARGET\", \"refer_replaces:TARGET\", \
                 \"redirect:TARGET\", \"webhook:NAME\", or \"refuse:480\" (400 to 699)"
            )),
        }
    }
}

/// One word, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn read<T: for<'de> Deserialize<'de>, E: Error>(self) -> Result<Vec<T>, E> {
        let words = match self {
            Self::One(word) => vec![word],
            Self::Many(words) => words,
        };
        let read = |word: String| {
            let word: StringDeserializer<ValueError> = word.into_deserializer();
            T::deserialize(word).map_err(E::custom)
        };
        words.into_iter().map(read).collect()
    }
}

/// A list, for which one word may be written.
pub fn one_or_many<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a>>(from: D) -> Result<Vec<T>, D::Error> {
    Words::deserialize(from)?.read()
}

pub(super) fn named_patterns<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<Pattern>>, D::Error> {
    let named = BTreeMap::<String, Words>::deserialize(from)?;
    named.into_iter().map(|(name, words)| Ok((name, words.read()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(text: &str) -> Rung {
        Rung::try_from(text.to_owned()).unwrap()
    }

    fn situation<'a>(variables: &'a [(String, String)]) -> Situation<'a> {
        Situation {
            outcome: Outcome::Agent,
            reason: None,
            answered: true,
            entry: Entry::Supervised,
            profile: Some("pbx-north"),
            task: Some("Billing"),
            transfer_type: Some("Agent"),
            variables,
        }
    }

    #[test]
    fn a_pattern_is_exact_but_for_its_wildcards() {
        for (pattern, text, fits) in [
            ("gold", "gold", true),
            ("gold", "golden", false),
            ("gold*", "golden", true),
            ("*", "", true),
            ("g?ld", "gold", true),
            ("g?ld", "gld", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("**é", "café", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(Pattern(pattern.into()).matches(text), fits, "{pattern} {text}");
        }
        let (hostile, long) = (Pattern("*a".repeat(200)), "a".repeat(100_000));
        assert!(hostile.matches(&long) && !Pattern(format!("{}b", hostile.0)).matches(&long));
    }

    #[test]
    fn the_first_rule_that_fits_names_the_ladder() {
        let rule =
            |when, ladder: &[&str]| Rule { when, ladder: ladder.iter().map(|r| rung(r)).collect(), allow_drop: false };
        let gold = Matcher {
            variables: [("tier".to_owned(), vec![Pattern("gold*".into()), Pattern("vip".into())])].into(),
            transfer_type: vec![Pattern("AGENT".into())],
            ..Matcher::default()
        };
        let rules = [
            rule(Matcher { outcome: vec![Outcome::System], ..Matcher::default() }, &["bye"]),
            rule(gold, &["dial:vip", "bye", "refuse:486"]),
            rule(Matcher { profile: vec![Pattern("cloud".into())], ..Matcher::default() }, &["dial:cloud"]),
            rule(
                Matcher { task: vec![Pattern("Bill*".into())], ..Matcher::default() },
                &["dial:billing", "refuse:480"],
            ),
        ];
        let chosen = |situation: &Situation<'_>| {
            ladder(&rules, true, situation).iter().map(Rung::to_string).collect::<Vec<_>>().join(" ")
        };
        let tier = [("tier".to_owned(), "goldish".to_owned())];
        assert_eq!(chosen(&situation(&tier)), "dial:vip bye");
        assert_eq!(chosen(&situation(&[])), "dial:billing");
        assert_eq!(chosen(&Situation { profile: Some("cloud"), ..situation(&[]) }), "dial:cloud");
        assert_eq!(chosen(&Situation { profile: None, ..situation(&[]) }), "dial:billing");
        assert_eq!(chosen(&Situation { answered: false, ..situation(&[]) }), "dial:billing refuse:480");
        assert_eq!(chosen(&Situation { task: None, ..situation(&[]) }), "bye", "no rule fits");
        assert_eq!(chosen(&Situation { task: None, answered: false, ..situation(&[]) }), "refuse:480");
        let redirected = Situation { task: None, entry: Entry::Redirected, ..situation(&[]) };
        assert_eq!(chosen(&redirected), "refer:default dial:default");
        assert_eq!(chosen(&Situation { answered: false, ..redirected }), "refuse:480");
        assert_eq!(ladder(&rules, false, &redirected), [Rung::Bye], "nowhere to go");
    }

    #[test]
    fn rungs_are_read_as_they_are_written() {
        for text in [
            "bye",
            "dial:queue",
            "refer:queue",
            "refer_replaces:queue",
            "refuse:503",
            "redirect:queue",
            "webhook:router",
        ] {
            assert_eq!(rung(text).to_string(), text);
        }
        for text in
            ["", "Bye", "bye:x", "dial", "dial:", "refuse", "refuse:200", "refuse:99999", "refer:", "transfer:x"]
        {
            assert!(Rung::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
